// The kernels, for one instruction set: included once for each with its LANES floats per vector.

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

constexpr int STRIP = 64;   // columns of a panel
constexpr int GRAIN = 16;   // what the last panel's width is a multiple of
constexpr int SIX = 6;      // of which numbers of rows had best be multiples: a tile of one or two
constexpr int TALL = LANES == 16 ? 12 : 6;  // rows of a tile, beside two vectors: 24 of 32 registers, 12 of 16

inline vec load(const float *p) { return *reinterpret_cast<const vec *>(p); }
inline void store(float *p, vec v) { *reinterpret_cast<vec *>(p) = v; }
inline vec all(float x) { return x - vec{}; }

inline float total(vec v) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

inline int64_t padded(int64_t n) { return (n + GRAIN - 1) / GRAIN * GRAIN; }

inline int64_t sixes(int64_t rows) { return (rows + SIX - 1) / SIX * SIX; }

// c (M rows) = a[:, active] b[active, :], N vectors wide; `columns` of them are stored.
template <int M, int N>
void tile(int64_t count, const int32_t *active, const float *a, int64_t lda, const float *b, int64_t ldb, float *c,
          int64_t ldc, int64_t columns) {
    vec sum[M][N];
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) sum[i][j] = vec{};
    for (int64_t p = 0; p < count; p++) {
        int64_t k = active[p];
        vec right[N];
        for (int j = 0; j < N; j++) right[j] = load(b + k * ldb + j * LANES);
        for (int i = 0; i < M; i++) {
            vec left = all(a[i * lda + k]);
            for (int j = 0; j < N; j++) sum[i][j] += left * right[j];
        }
    }
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            int64_t room = columns - j * LANES;
            if (room >= LANES)
                store(c + i * ldc + j * LANES, sum[i][j]);
            else
                for (int q = 0; q < room; q++) c[i * ldc + j * LANES + q] = sum[i][j][q];
        }
}

template <int M, int N>
void strip(int64_t m, int64_t count, const int32_t *active, const float *a, int64_t lda, const float *b, int64_t ldb,
           float *c, int64_t ldc, int64_t columns) {
    int64_t i = 0;
    for (; i + M <= m; i += M) tile<M, N>(count, active, a + i * lda, lda, b, ldb, c + i * ldc, ldc, columns);
    if constexpr (M > 1)
        if (i < m) strip<M / 2, N>(m - i, count, active, a + i * lda, lda, b, ldb, c + i * ldc, ldc, columns);
}

// c (m, columns) = a[:, active] M[active, :]
void product(int64_t m, int64_t count, const int32_t *active, const float *a, int64_t lda, const Matrix &b, float *c,
             int64_t ldc) {
    for (int64_t first = 0; first < b.columns; first += STRIP) {
        int64_t here = b.columns - first < STRIP ? b.columns - first : STRIP;
        int64_t width = padded(here);
        const float *panel = b.panels + first * b.rows;
        for (int64_t j = 0; j < width;) {
            int64_t columns = here - j, vectors = (width - j) / LANES;
            auto with = [&](auto run) { run(m, count, active, a, lda, panel + j, width, c + first + j, ldc, columns); };
            if (LANES == 16 && vectors == 3) {
                with(strip<8, 3>);
                j += 3 * LANES;
            } else if (vectors > 1) {
                with(strip<TALL, 2>);
                j += 2 * LANES;
            } else {
                with(strip<TALL, 1>);
                j += LANES;
            }
        }
    }
}

// The same for all columns of a, but those that are 0 in all of its rows are left out; `bias` may be null.
void multiply(int64_t m, const float *a, const Matrix &b, const float *bias, float *c) {
    int64_t n = b.rows, most = 2 * sixes(32768 / n < 12 ? 12 : 32768 / n);  // rows at once: a quarter of a megabyte
    Scratch<int32_t> used(n), active(n + 1);
    for (int64_t first = 0; first < m; first += most) {
        int64_t here = m - first < most ? m - first : most, count = 0;
        const float *rows = a + first * n;
        float *out = c + first * b.columns;
        std::memset(used.data, 0, n * sizeof(int32_t));
        for (int64_t i = 0; i < here; i++)
            for (int64_t j = 0; j < n; j++) used.data[j] |= rows[i * n + j] != 0;
        for (int64_t j = 0; j < n; j++) {
            active.data[count] = j;
            count += used.data[j] != 0;
        }
        product(here, count, active.data, rows, n, b, out, b.columns);
        if (bias)
            for (int64_t i = 0; i < here; i++)
                for (int64_t j = 0; j < b.columns; j++) out[i * b.columns + j] += bias[j];
    }
}

// Coefficients through lines, row by row.
void relax(const Relaxed &t) {
    for (int64_t b = 0; b < t.domains; b++)
        for (int64_t s = 0; s < t.rows; s++) {
            auto at = [&](const Field &f) { return f.data ? f.data + b * f.domain + s * f.row : nullptr; };
            const float *a = at(t.coefficients), *low = at(t.lower_slope), *up = at(t.upper_slope),
                        *above = at(t.upper_shift), *below = at(t.lower_shift);
            float *out = t.out + (b * t.rows + s) * t.size;
            vec sum{};
            float rest = 0;
            int64_t j = 0;
            for (; j + LANES <= t.size; j += LANES) {
                vec x = load(a + j), negative = x < 0 ? x : vec{};
                store(out + j, (x - negative) * load(low + j) + negative * load(up + j));
                sum += negative * load(above + j);
                if (below) sum += (x - negative) * load(below + j);
            }
            for (; j < t.size; j++) {
                float negative = a[j] < 0 ? a[j] : 0;
                out[j] = (a[j] - negative) * low[j] + negative * up[j];
                rest += negative * above[j];
                if (below) rest += (a[j] - negative) * below[j];
            }
            t.constant[b * t.rows + s] = total(sum) + rest;
        }
}

void follow(const Followed &t) {
    for (int64_t b = 0; b < t.domains; b++)
        for (int64_t s = 0; s < t.rows; s++) {
            auto at = [&](const Field &f) { return f.data ? f.data + b * f.domain + s * f.row : nullptr; };
            const float *z = at(t.values), *a = at(t.coefficients), *low = at(t.lower_slope), *up = at(t.upper_slope),
                        *above = at(t.upper_shift), *below = at(t.lower_shift);
            float *out = t.out + (b * t.rows + s) * t.size;
            for (int64_t j = 0; j < t.size; j++) {
                float under = low[j] * z[j] + (below ? below[j] : 0), over = up[j] * z[j] + above[j];
                out[j] = a[j] < 0 ? over : under;
            }
        }
}

// NaN bounds give NaN, as in torch: of a NaN every comparison is false.
inline void kinked_at(const Kinked &t, const float *l, const float *u, const float *s, float *low, float *high,
                      float *shift, int64_t k, int64_t count) {
    const float most = FLT_MAX / 4;
    auto part = [=](const float *p) {
        if (count == LANES) return load(p + k);
        vec v{};
        for (int64_t q = 0; q < count; q++) v[q] = p[k + q];
        return v;
    };
    auto put = [=](float *p, vec v) {
        if (count == LANES) return store(p + k, v);
        for (int64_t q = 0; q < count; q++) p[k + q] = v[q];
    };
    vec lower = part(l), upper = part(u);
    vec free = lower + upper > 0 ? all(1) : vec{};
    if (s) {
        vec slope = part(s);
        free = (lower < 0) & (upper > 0) & (slope == slope) ? slope : free;
    }
    put(low, free);
    if (!high) return;
    vec below = lower > 0 ? vec{} : lower, above = upper < 0 ? vec{} : upper;
    below = below < -most ? all(-most) : below;
    above = above > most ? all(most) : above;
    vec width = above - below;
    vec slope = above / (width < FLT_MIN ? all(FLT_MIN) : width);
    put(high, slope);
    put(shift, -below * slope);
}

// Lower slopes (B, S, n); the chords (boxes, n) with the first rows of their domains.
void kinked(const Kinked &t) {
    for (int64_t b = 0; b < t.domains; b++)
        for (int64_t r = 0; r < t.rows; r++) {
            int64_t box = t.boxes > 1 ? b : 0, n = t.size;
            const float *l = t.lower + box * n, *u = t.upper + box * n;
            const float *s = t.slope.data ? t.slope.data + b * t.slope.domain + r * t.slope.row : nullptr;
            float *low = t.lower_slope + (b * t.rows + r) * n;
            bool chord = r == 0 && b < t.boxes;
            float *high = chord ? t.upper_slope + box * n : nullptr, *shift = chord ? t.upper_shift + box * n : nullptr;
            for (int64_t k = 0; k < n; k += LANES)
                kinked_at(t, l, u, s, low, high, shift, k, n - k < LANES ? n - k : LANES);
        }
}

void ascend(const Ascent &t) {
    for (int64_t i = 0; i < t.rows; i++) {
        const float *slope = t.slope + i * t.size;
        float *p = t.parameter + i * t.size, *mean = t.mean + i * t.size, *square = t.square + i * t.size;
        float rate = t.active[i] ? t.rate : 0;
        for (int64_t j = 0; j < t.size; j++) {
            mean[j] += 0.1f * (slope[j] - mean[j]);
            square[j] = 0.999f * square[j] + 0.001f * slope[j] * slope[j];
            p[j] += rate * (mean[j] / (__builtin_sqrtf(square[j]) + 1e-12f));
        }
    }
}

struct Line {
    const float *lower_slope, *upper_slope, *upper_shift;
};

// r = a through the lines, n a multiple of LANES; what they and the bias add to the constant is returned, in parts.
inline vec relax(int64_t n, const float *a, const Line &line, const float *bias, float *r) {
    vec sum{};
    for (int64_t j = 0; j < n; j += LANES) {
        vec x = load(a + j), negative = x < 0 ? x : vec{};
        vec y = (x - negative) * load(line.lower_slope + j) + negative * load(line.upper_slope + j);
        sum += negative * load(line.upper_shift + j) + y * load(bias + j);
        store(r + j, y);
    }
    return sum;
}

inline float greater(float a, float b) { return a > b || a != a ? a : b; }  // NaN if one of them is
inline float smaller(float a, float b) { return a < b || a != a ? a : b; }

inline int64_t widest(const Chain &c) {
    int64_t n = padded(c.forth[0].rows);
    for (int64_t l = 0; l < c.layers; l++) n = padded(c.forth[l].columns) > n ? padded(c.forth[l].columns) : n;
    return n;
}

// What one box leaves of a layer: the neurons that the ReLU behind it does not make 0, with their lines.
struct Remnant {
    Scratch<int32_t> index;
    Scratch<float> lower_slope, upper_slope, upper_shift, bias;
    Scratch<float> panels;  // weights from these neurons back to those that remain in the layer before
    Matrix back;

    Remnant(int64_t lead, int64_t before)
        : index(lead + 1), lower_slope(lead), upper_slope(lead), upper_shift(lead), bias(lead),
          panels(lead * before), back{panels.data, 0, 0} {}
};

// The chain's bounds over one box after another: all that one box needs stays in the cache.
struct Bounder {
    const Chain &c;
    int64_t lead, most;  // widest layer, rows at once
    Remnant **layers;
    Scratch<float> a, r, constant;  // rows before and after the lines; LANES parts of each row's constant
    Scratch<float> middle, half, centre, spread;
    Scratch<float> box_middle, box_half;
    Scratch<int32_t> every, unstable;

    explicit Bounder(const Chain &chain)
        : c(chain), lead(widest(chain)), most(2 * sixes(16384 / lead < 12 ? 12 : 16384 / lead)),
          layers(new Remnant *[chain.layers]), a(most * lead), r(most * lead), constant(most * LANES), middle(lead),
          half(lead), centre(lead), spread(lead), box_middle(lead), box_half(lead), every(lead), unstable(lead + 1) {
        for (int64_t j = 0; j < lead; j++) every.data[j] = j;
        for (int64_t l = 0; l < c.layers; l++) layers[l] = new Remnant(lead, padded(c.forth[l].rows));
    }

    ~Bounder() {
        for (int64_t l = 0; l < c.layers; l++) delete layers[l];
        delete[] layers;
    }

    void run() {
        for (int64_t b = 0; b < c.domains; b++) {
            int64_t d = c.forth[0].rows;
            for (int64_t j = 0; j < d; j++) {
                float low = c.lower[b * d + j], high = c.upper[b * d + j];
                middle.data[j] = box_middle.data[j] = (low + high) / 2;
                half.data[j] = box_half.data[j] = (high - low) / 2;
            }
            for (int64_t l = 0; l < c.layers; l++) {
                int64_t n = c.forth[l].columns;
                float *low = c.low[l] + b * n, *high = c.high[l] + b * n;
                enclose(l, low, high);
                if (l && c.refine[l]) refine(l, low, high);
                if (l + 1 < c.layers) keep(l, low, high);
            }
        }
    }

    // Interval bounds from those of the layer before.
    void enclose(int64_t l, float *low, float *high) {
        product(1, c.forth[l].rows, every.data, middle.data, lead, c.forth[l], centre.data, lead);
        product(1, c.forth[l].rows, every.data, half.data, lead, c.size[l], spread.data, lead);
        for (int64_t j = 0; j < c.forth[l].columns; j++) {
            float at = centre.data[j] + (c.bias[l] ? c.bias[l][j] : 0);
            low[j] = greater(at - spread.data[j], low[j]);
            high[j] = smaller(at + spread.data[j], high[j]);
        }
    }

    void refine(int64_t l, float *low, float *high) {
        int64_t count = 0;
        for (int64_t j = 0; j < c.forth[l].columns; j++) {
            unstable.data[count] = j;
            count += low[j] < 0 && high[j] > 0;
        }
        for (int64_t first = 0; first < count; first += most / 2)
            tighten(l, unstable.data + first, count - first < most / 2 ? count - first : most / 2, low, high);
    }

    // What later layers need of this one: intervals behind the ReLU, its lines, and the weights that remain.
    void keep(int64_t l, const float *low, const float *high) {
        Remnant &here = *layers[l];
        int64_t count = 0, dead = 0;
        for (int64_t j = 0; j < c.forth[l].columns; j++) dead += high[j] <= 0;
        bool all_stay = 8 * dead <= c.forth[l].columns;  // then leaving them out costs more than it saves
        for (int64_t j = 0; j < c.forth[l].columns; j++) {
            float bottom = low[j] < 0 ? 0 : low[j], top = high[j] < 0 ? 0 : high[j];
            middle.data[j] = (bottom + top) / 2;
            half.data[j] = (top - bottom) / 2;
            float below = low[j] > 0 ? 0 : low[j] < -FLT_MAX / 4 ? -FLT_MAX / 4 : low[j];
            float above = top > FLT_MAX / 4 ? FLT_MAX / 4 : top;
            float slope = above / greater(above - below, FLT_MIN);
            here.lower_slope.data[count] = low[j] + high[j] > 0;
            here.upper_slope.data[count] = slope;
            here.upper_shift.data[count] = -below * slope;
            here.bias.data[count] = c.bias[l] ? c.bias[l][j] : 0;
            here.index.data[count] = j;
            count += all_stay || slope != 0 || low[j] + high[j] > 0;
        }
        for (int64_t j = count; j < padded(count); j++)
            here.lower_slope.data[j] = here.upper_slope.data[j] = here.upper_shift.data[j] = here.bias.data[j] = 0;
        const int32_t *before = l ? layers[l - 1]->index.data : every.data;
        int64_t n = c.forth[l].rows, columns = l ? layers[l - 1]->back.rows : n;
        if (count == c.forth[l].columns && columns == n) {
            here.back = {c.back[l].panels, count, padded(n)};  // as they lie in every box
            return;
        }
        here.back = {here.panels.data, count, padded(columns)};  // the padding is there, and nought
        for (int64_t first = 0; first < columns; first += STRIP) {
            int64_t width = columns - first < STRIP ? columns - first : STRIP, wide = padded(width);
            float *panel = here.panels.data + first * count;
            for (int64_t i = 0; i < count; i++) {
                const float *row = c.weight[l] + here.index.data[i] * n;
                for (int64_t j = 0; j < width; j++) panel[i * wide + j] = row[before[first + j]];
                for (int64_t j = width; j < wide; j++) panel[i * wide + j] = 0;
            }
        }
    }

    // Bounds on the neurons at `index` of layer l: the rows e_j and -e_j sent back to the box.
    void tighten(int64_t l, const int32_t *index, int64_t count, float *low, float *high) {
        const Remnant &last = *layers[l - 1];
        int64_t m = 2 * count, n = padded(last.back.rows);
        for (int64_t i = 0; i < count; i++) {
            const float *w = c.weight[l] + index[i] * c.forth[l].rows;
            float *plus = a.data + i * lead, *minus = a.data + (count + i) * lead;
            for (int64_t j = 0; j < last.back.rows; j++) {
                plus[j] = w[last.index.data[j]];
                minus[j] = -plus[j];
            }
            for (int64_t j = last.back.rows; j < n; j++) plus[j] = minus[j] = 0;
        }
        std::memset(constant.data, 0, m * LANES * sizeof(float));
        for (int64_t q = l - 1; q >= 0; q--) {
            const Remnant &here = *layers[q];
            Line line{here.lower_slope.data, here.upper_slope.data, here.upper_shift.data};
            for (int64_t i = 0; i < m; i++) {
                float *sum = constant.data + i * LANES;
                store(sum, load(sum) + relax(padded(here.back.rows), a.data + i * lead, line, here.bias.data,
                                             r.data + i * lead));
            }
            product(sixes(m), here.back.rows, every.data, r.data, lead, here.back, a.data, lead);
        }
        for (int64_t i = 0; i < m; i++) {
            vec sum = load(constant.data + i * LANES);
            for (int64_t j = 0; j < padded(c.forth[0].rows); j += LANES) {
                vec x = load(a.data + i * lead + j), size = x < 0 ? -x : x;
                sum += x * load(box_middle.data + j) - size * load(box_half.data + j);
            }
            int64_t j = index[i < count ? i : i - count];
            float own = c.bias[l] ? c.bias[l][j] : 0, value = total(sum);
            if (i < count)
                low[j] = greater(value + own, low[j]);
            else
                high[j] = smaller(own - value, high[j]);
        }
    }
};

void bounds(const Chain &c) { Bounder(c).run(); }
