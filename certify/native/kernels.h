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

// Lines around ReLUs. See `kinked` in products.py.
struct Kinked {
    int64_t domains, boxes, rows, size;  // `boxes` is `domains`, or 1 if all share their bounds
    const float *lower, *upper;          // (boxes, n)
    Field slope;                         // what the lower lines are to be where it matters; data may be null
    float *lower_slope;                  // (B, S, n)
    float *upper_slope, *upper_shift;    // (boxes, n)
};

// One step of Adam. See `ascend` in products.py.
struct Ascent {
    int64_t rows, size;
    const uint8_t *active;  // (rows,)
    float rate;
    const float *slope;               // (rows, n)
    float *parameter, *mean, *square;  // (rows, n)
};

// A linear map of values numbered [pixel][channel]: dense layers have one pixel, convolutions many. Target pixel p
// reads the source pixels source[begin[p]] ... source[begin[p + 1] - 1], each through the weights of its tap.
struct Taps {
    int64_t targets, in, out, width;  // pixels; channels read and made; how many are made side by side
    const int32_t *begin, *source, *tap;
    const float *weights;  // per tap: strips of `width` outputs (the last one narrower), each (in, its width)
};

// One step of a sweep through a network: `to` = what it makes of `from`, or that added to it. Places are in numbers
// per row. See `Move` in sweep.py.
enum Kind : int64_t { MAP, ADD, SCALE, BIAS, RELU };
struct Move {
    int64_t kind, from, to, add, size;
    int64_t which;      // RELU: the layer; BIAS: how many numbers `vector` repeats
    const Taps *taps;   // MAP
    const float *vector, *shift;  // MAP: shift per channel; SCALE: factors and shift; BIAS: factors; may be null
    float factor;       // ADD
};

// The ReLUs of one node: all fields over (rows, n), entries in the network's own order, which `place` (n,) changes.
struct Layer {
    int64_t size, kept;  // neurons, and place of their coefficients
    const int32_t *place;
    Field lower_slope, upper_slope, upper_shift;
    float *coefficients;           // out, may be null
    float *slope, *mean, *square;  // the lower slopes and Adam's moments, moved uphill; or all null
};

// Rows sent through a network from its last node to its input, and uphill. See `sweep` in sweep.py.
struct Sweep {
    int64_t count, clauses, vectors;  // rows, of which row r belongs to domain r / clauses; vectors of them in a block
    int64_t threads;                  // at most so many share the blocks
    int64_t shared;                   // whether the rows of a domain share their lines
    const int64_t *row;      // (count,)
    int64_t inputs, outputs, room, start, form, point;  // sizes; places of what the sweeps begin and end with
    const int32_t *input_place, *output_place;
    const float *lower, *upper;  // (B, d)
    Field rows;                  // (B, S, n) coefficients of the last node
    const int64_t *pick;         // (B, S): which of them each row is; null if they are in order
    const float *offset;         // (B, S)
    int64_t back_count, forth_count, layer_count;
    const Move *back, *forth;
    const Layer *layers;
    float *input, *constant, *value;  // out: (B, S, d), (B, S), (B, S)
    // what follows is for the ascent, from step `first` to step `until`
    int64_t ascend, first, until, steps, trial;
    float threshold, decay, rate, multiplier_rate;
    float *best, *initial;  // (B, S)
    uint8_t *done;          // (B, S)
    int64_t depth;
    const int32_t *layer, *place;  // (B, D): of each split, or -1
    const float *bent, *sign;      // (B, D): points and signs
    float *multiplier, *mean, *square, *scale;  // (B, S, D)
};
