// What the compiled kernels are given. Every number is a float32; every struct is mirrored in library.py.
#pragma once
#include <cstdint>

// A linear map with `rows` inputs and `columns` outputs: y = x M. `panels` holds M in strips of 64 columns
// (the last one padded to a multiple of 16), each strip row after row.
struct Matrix {
    const float *panels;
    int64_t rows, columns;
};

// Numbers (B, S, n), of which B or S may be shared: steps of 0.
struct Field {
    const float *data;
    int64_t domain, row;
};

// Coefficients of the values behind an elementwise operator -> those of the values before the linear map in
// front of it. See `through` in products.py.
struct Through {
    int64_t domains, rows, size;  // B, S, n
    Field coefficients;
    Field lower_slope, upper_slope, upper_shift, lower_shift;  // lower_shift.data may be null
    const float *bias;                                         // (n,), may be null
    Matrix matrix;
    int64_t depth, node;                    // D splits per domain, of which those with this node count here
    const int64_t *split_node, *split_index;  // (B, D)
    const float *amount;                    // (B, S, D), added to the coefficients
    float *out;                             // (B, S, columns)
    float *constant;                        // (B, S), added to
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

// One step of projected Adam for line parameters in [0, 1]. See `ascend` in products.py.
struct Ascent {
    int64_t domains, rows, size;
    Field coefficients, read;
    Field lower_gain, upper_gain;
    const uint8_t *active;  // (B, S)
    float rate;
    float *parameter, *mean, *square;  // (B, S, n)
};
