// What the compiled kernels are given. Every number is a float32; every struct is mirrored in library.py.
#pragma once
#include <cstdint>

// A linear map with `rows` inputs and `columns` outputs: y = x M. `panels` holds M in strips of 64 columns
// (the last one padded to a multiple of 16), each strip row after row.
struct Matrix {
    const float *panels;
    int64_t rows, columns;
};

// A chain x -> L0 -> ReLU -> L1 -> ReLU ... of which the values in front of every ReLU are to be bounded over
// boxes. See `bounds` in chains.py.
struct Chain {
    int64_t domains, layers;
    const float *lower, *upper;  // (B, d)
    const Matrix *back;          // per layer: M with rows = outputs, columns = inputs
    const float *const *weight;  // per layer (outputs, inputs)
    const Matrix *forth;         // per layer: rows = inputs, columns = outputs
    const Matrix *size;          // the same with absolute values
    const float *const *bias;    // per layer (outputs,), may be null
    const int64_t *refine;       // per layer: tighten it by backward propagation
    float *const *low;           // per layer (B, outputs): bounds known beforehand, tightened in place
    float *const *high;
};

// Numbers (B, S, n), of which B or S may be shared: steps of 0.
struct Field {
    const float *data;
    int64_t domain, row;
};

// Coefficients of what an elementwise operator makes -> of what it reads. See `relax` in products.py.
struct Relaxed {
    int64_t domains, rows, size;
    Field coefficients, lower_slope, upper_slope, upper_shift, lower_shift;  // lower_shift.data may be null
    float *out;       // (B, S, n)
    float *constant;  // (B, S)
};

// Values through the lines that the coefficients of what is made chose. See `follow` in products.py.
struct Followed {
    int64_t domains, rows, size;
    Field values, coefficients, lower_slope, upper_slope, upper_shift, lower_shift;  // the last one may be null
    float *out;  // (B, S, n)
};

// One step of Adam. See `ascend` in products.py.
struct Ascent {
    int64_t rows, size;
    const uint8_t *active;  // (rows,)
    float rate;
    const float *slope;               // (rows, n)
    float *parameter, *mean, *square;  // (rows, n)
};
