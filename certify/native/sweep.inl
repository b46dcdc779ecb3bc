// Sweeps through a network, for one instruction set: included once for each, behind kernels.inl.
//
// A block of V * LANES rows goes through the whole network together, and through all steps of an ascent. Its numbers
// lie side by side, [number][row]: every operation is one on vectors of rows, whatever the sizes, strides and
// padding; weights are broadcast.

constexpr int SIDE = LANES == 16 ? 24 : 12;  // vectors of sums that the registers have room for
constexpr int WIDEST = 12;                   // outputs side by side, at most (as in sweep.py)

// Rows of a square <-> columns.
template <int S, int... K>
inline void turn_by(vec *square, std::integer_sequence<int, K...>) {
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
        if (!(i & S)) {
            vec a = square[i], b = square[i + S];
            square[i] = __builtin_shufflevector(a, b, (K & S ? LANES + K - S : K)...);
            square[i + S] = __builtin_shufflevector(a, b, (K & S ? LANES + K : K + S)...);
        }
    if constexpr (S > 1) turn_by<S / 2>(square, std::integer_sequence<int, K...>{});
}
inline void turn(vec *square) { turn_by<LANES / 2>(square, std::make_integer_sequence<int, LANES>{}); }

inline vec root(vec v) {
    for (int i = 0; i < LANES; i++) v[i] = __builtin_sqrtf(v[i]);
    return v;
}

// The sums of one pixel's outputs, W of them, for all rows.
template <int W, int V>
void made(const Taps &t, int64_t begin, int64_t end, const float *from, const float *weights, int64_t width,
          const float *shift, bool add, float *to) {
    constexpr int L = V * LANES;
    vec sum[W][V];
#pragma GCC unroll 12
    for (int o = 0; o < W; o++) {
        vec first = shift ? all(shift[o]) : vec{};
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) sum[o][v] = first;
    }
    for (int64_t e = begin; e < end; e++) {
        const float *x = from + t.source[e] * t.in * L, *w = weights + t.tap[e] * t.in * t.out;
        for (int64_t k = 0; k < t.in; k++, x += L, w += width) {
            vec right[V];
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) right[v] = load(x + v * LANES);
#pragma GCC unroll 12
            for (int o = 0; o < W; o++) {
                vec left = all(w[o]);
#pragma GCC unroll 4
                for (int v = 0; v < V; v++) sum[o][v] += left * right[v];
            }
        }
    }
#pragma GCC unroll 12
    for (int o = 0; o < W; o++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
            float *out = to + o * L + v * LANES;
            store(out, add ? load(out) + sum[o][v] : sum[o][v]);
        }
}

template <int W, int V, class... Rest>
void made_of(int64_t wide, Rest... rest) {
    if constexpr (W > 1)
        if (wide < W) return made_of<W - 1, V>(wide, rest...);
    made<W, V>(rest...);
}

template <int V>
void map(const Taps &t, const float *from, const float *shift, bool add, float *to) {
    constexpr int L = V * LANES, MOST = SIDE / V < WIDEST ? SIDE / V : WIDEST;
    for (int64_t p = 0; p < t.targets; p++)
        for (int64_t first = 0; first < t.out; first += t.width) {
            int64_t width = t.out - first < t.width ? t.out - first : t.width;
            for (int64_t o = 0; o < width; o += MOST)
                made_of<MOST, V, const Taps &>(width - o, t, t.begin[p], t.begin[p + 1], from,
                                               t.weights + first * t.in + o, width, shift ? shift + first + o : nullptr,
                                               add, to + (p * t.out + first + o) * L);
        }
}

template <int V>
struct Block {
    static constexpr int L = V * LANES;
    struct State {
        Scratch<float> lower_slope, upper_slope, upper_shift, mean, square;
        State(int64_t size, int64_t moments)
            : lower_slope(size * L, false), upper_slope(size * L, false), upper_shift(size * L, false),
              mean(moments * L, false), square(moments * L, false) {}
    };

    const Sweep &s;
    Scratch<float> room, lower, upper;
    State **states;
    int64_t count = 0, domain = -1, row[L], owner[L], clause[L];  // of each lane: its row = owner * clauses + clause
    float constant[L], value[L], rate[L];
    uint8_t done[L];

    explicit Block(const Sweep &sweep)
        : s(sweep), room(s.room * L, false), lower(s.inputs * L, false), upper(s.inputs * L, false),
          states(new State *[s.layer_count]) {
        for (int64_t l = 0; l < s.layer_count; l++)
            states[l] = new State(s.layers[l].size, s.ascend ? s.layers[l].size : 0);
    }
    ~Block() {
        for (int64_t l = 0; l < s.layer_count; l++) delete states[l];
        delete[] states;
    }

    float *at(int64_t place) { return room.data + place * L; }

    // Numbers of the rows -> side by side, number j to place[j]; rows that the block lacks are copies of its first one.
    template <class Source>
    void turn_in(int64_t size, const int32_t *place, Source source, float *to) {
        const float *from[L];
        bool same = true;
        for (int i = 0; i < L; i++) {
            from[i] = source(i);
            same = same && from[i] == from[0];
        }
        if (same)
            for (int64_t j = 0; j < size; j++)
                for (int v = 0; v < V; v++) store(to + place[j] * L + v * LANES, all(from[0][j]));
        else if (size < LANES)
            for (int64_t j = 0; j < size; j++)
                for (int i = 0; i < L; i++) to[place[j] * L + i] = from[i][j];
        else
            for (int64_t first = 0; first < size; first += LANES)
                for (int v = 0; v < V; v++) {
                    int64_t j = first + LANES <= size ? first : size - LANES;  // the last square overlaps
                    vec square[LANES];
#pragma GCC unroll 16
                    for (int i = 0; i < LANES; i++) square[i] = load(from[v * LANES + i] + j);
                    turn(square);
#pragma GCC unroll 16
                    for (int i = 0; i < LANES; i++) store(to + place[j + i] * L + v * LANES, square[i]);
                }
    }
    void turn_out(int64_t size, const int32_t *place, const float *from, float *to) {
        if (size < LANES)
            for (int64_t j = 0; j < size; j++)
                for (int i = 0; i < count; i++) to[row[i] * size + j] = from[place[j] * L + i];
        else
            for (int64_t first = 0; first < size; first += LANES)
                for (int v = 0; v * LANES < count; v++) {
                    int64_t j = first + LANES <= size ? first : size - LANES;
                    vec square[LANES];
#pragma GCC unroll 16
                    for (int i = 0; i < LANES; i++) square[i] = load(from + place[j + i] * L + v * LANES);
                    turn(square);
                    for (int i = 0; i < LANES && v * LANES + i < count; i++)
                        store(to + row[v * LANES + i] * size + j, square[i]);
                }
    }
    void turn_in(int64_t size, const int32_t *place, const Field &f, float *to) {
        turn_in(size, place, [&](int i) { return f.data + owner[i] * f.domain + clause[i] * f.row; }, to);
    }
    void turn_in_rows(int64_t size, const int32_t *place, const float *from, float *to) {
        turn_in(size, place, [&](int i) { return from + row[i] * size; }, to);
    }

    void run(const int64_t *rows, int64_t given) {
        count = given;
        for (int i = 0; i < L; i++) {
            row[i] = rows[i < count ? i : 0];
            owner[i] = row[i] / s.clauses;
            clause[i] = row[i] - owner[i] * s.clauses;
        }
        enter();
        if (s.ascend)
            climb();
        else
            back();
        leave();
    }

    // The boxes and the lines, unless they are still there: those of one domain, whose rows all share them.
    void enter() {
        int64_t one = owner[0];
        bool alone = !s.ascend && s.shared;
        for (int i = 1; i < L; i++) alone = alone && owner[i] == one;
        if (alone && one == domain) return;
        domain = alone ? one : -1;
        auto box = [&](const float *side) { return [this, side](int i) { return side + owner[i] * s.inputs; }; };
        turn_in(s.inputs, s.input_place, box(s.lower), lower.data);
        turn_in(s.inputs, s.input_place, box(s.upper), upper.data);
        for (int64_t l = 0; l < s.layer_count; l++) {
            const Layer &layer = s.layers[l];
            State &state = *states[l];
            turn_in(layer.size, layer.place, layer.upper_slope, state.upper_slope.data);
            turn_in(layer.size, layer.place, layer.upper_shift, state.upper_shift.data);
            turn_in(layer.size, layer.place, layer.lower_slope, state.lower_slope.data);
            if (s.ascend) {
                turn_in_rows(layer.size, layer.place, layer.mean, state.mean.data);
                turn_in_rows(layer.size, layer.place, layer.square, state.square.data);
            }
        }
    }

    void leave() {
        if (s.input) turn_out(s.inputs, s.input_place, at(s.form), s.input);
        for (int i = 0; i < count; i++) {
            s.constant[row[i]] = constant[i];
            s.value[row[i]] = value[i];
        }
        for (int64_t l = 0; l < s.layer_count; l++) {
            const Layer &layer = s.layers[l];
            State &state = *states[l];
            if (layer.coefficients) turn_out(layer.size, layer.place, at(layer.kept), layer.coefficients);
            if (s.ascend) {
                turn_out(layer.size, layer.place, state.lower_slope.data, layer.slope);
                turn_out(layer.size, layer.place, state.mean.data, layer.mean);
                turn_out(layer.size, layer.place, state.square.data, layer.square);
            }
        }
    }

    // The rows back to the input, and their least value over the boxes.
    void back() {
        vec sum[V]{};
        turn_in(s.outputs, s.output_place,
                [&](int i) {
                    int64_t k = s.pick ? s.pick[row[i]] : clause[i];
                    return s.rows.data + owner[i] * s.rows.domain + k * s.rows.row;
                },
                at(s.start));
        for (int i = 0; i < L; i++) constant[i] = s.offset[row[i]];
        for (const Move *m = s.back; m < s.back + s.back_count; m++) {
            if (m->kind == RELU)
                relax(*m, sum);
            else if (m->kind == BIAS)
                for (int64_t j = 0, k = 0; j < m->size; j++, k = k + 1 < m->which ? k + 1 : 0)
                    for (int v = 0; v < V; v++) sum[v] += load(at(m->from + j) + v * LANES) * all(m->vector[k]);
            else
                move(*m);
        }
        for (int v = 0; v < V; v++) {
            sum[v] += load(constant + v * LANES);
            store(constant + v * LANES, sum[v]);
        }
        for (int64_t j = 0; j < s.inputs; j++)
            for (int v = 0; v < V; v++) {
                int64_t k = j * L + v * LANES;
                vec x = load(at(s.form) + k);
                sum[v] += x * (x > 0 ? load(lower.data + k) : load(upper.data + k));
            }
        for (int v = 0; v < V; v++) store(value + v * LANES, sum[v]);
    }

    void move(const Move &m) {
        const float *from = at(m.from);
        float *to = at(m.to);
        if (m.kind == MAP) return map<V>(*m.taps, from, m.shift, m.add, to);
        for (int64_t j = 0; j < m.size; j++) {
            float factor = m.kind == ADD ? m.factor : m.vector ? m.vector[j] : 1;
            for (int v = 0; v < V; v++) {
                int64_t k = j * L + v * LANES;
                vec x = load(from + k) * all(factor);
                if (m.shift) x += all(m.shift[j]);
                store(to + k, m.add ? load(to + k) + x : x);
            }
        }
    }

    // Coefficients through the lines; then the Lagrangian terms of the splits, which move the constant too.
    void relax(const Move &m, vec *sum) {
        State &state = *states[m.which];
        const float *a = at(m.from);
        float *to = at(m.to);
        for (int64_t k = 0; k < m.size * L; k += L)
            for (int v = 0; v < V; v++) {
                int64_t i = k + v * LANES;
                vec x = load(a + i), slope = x < 0 ? load(state.upper_slope.data + i) : load(state.lower_slope.data + i);
                sum[v] += (x < 0 ? x : vec{}) * load(state.upper_shift.data + i);
                x *= slope;
                store(to + i, m.add ? load(to + i) + x : x);
            }
        each_split(m.which, [&](int i, int64_t domain, int64_t own) {
            float amount = s.multiplier[own] * s.sign[domain];
            to[s.place[domain] * L + i] -= amount;
            constant[i] += amount * s.bent[domain];
        });
    }

    // For the splits of one layer: the row's number in the block, and the positions in (B, D) and in (B, S, D).
    template <class Work>
    void each_split(int64_t layer, Work work) {
        for (int i = 0; i < count; i++)
            for (int64_t q = 0; q < s.depth; q++) {
                int64_t domain = owner[i] * s.depth + q;
                if (s.layer[domain] == layer) work(i, domain, row[i] * s.depth + q);
            }
    }

    // Steps of projected Adam, until all rows are done or the last step has been taken.
    void climb() {
        for (int i = 0; i < L; i++) done[i] = i >= count;
        for (int64_t step = s.first;; step++) {
            back();
            if (judge(step) || step == s.until) return;
            if (step == 0) measure();
            float root = __builtin_sqrtf(1 - __builtin_powf(0.999f, step + 1));
            float correction = __builtin_powf(s.decay, step) * root / (1 - __builtin_powf(0.9f, step + 1));
            for (int i = 0; i < L; i++) rate[i] = done[i] ? 0 : correction;
            forth();
        }
    }

    // Takes down the bounds and tells whether all rows are done.
    bool judge(int64_t step) {
        bool every = true;
        for (int i = 0; i < count; i++) {
            int64_t r = row[i];
            float best = s.best[r] = done[i] ? s.best[r] : greater(value[i], s.best[r]);
            if (step == 0) s.initial[r] = value[i];
            bool open = !(best > s.threshold);
            if (s.trial >= 0 && step >= (s.trial > 1 ? s.trial : 1))
                open = open && best + (best - s.initial[r]) / step * (s.steps - step) > s.threshold;
            s.done[r] = done[i] = done[i] || !open;
            every = every && done[i];
        }
        return every;
    }

    // How large each split's multiplier is likely to be (`_scale` in certify/bounds/optimise.py).
    void measure() {
        for (int64_t l = 0; l < s.layer_count; l++) {
            const float *a = at(s.layers[l].kept);
            vec sum[V]{};
            for (int64_t k = 0; k < s.layers[l].size * L; k += L)
                for (int v = 0; v < V; v++) {
                    vec x = load(a + k + v * LANES);
                    sum[v] += x < 0 ? -x : x;
                }
            float mean[L];
            for (int v = 0; v < V; v++) store(mean + v * LANES, sum[v] / all(float(s.layers[l].size)));
            each_split(l, [&](int i, int64_t domain, int64_t own) {
                s.scale[own] = greater(__builtin_fabsf(a[s.place[domain] * L + i]), mean[i]);
            });
        }
    }

    // The minimiser forward through the lines that made the bound, with the steps on the way.
    void forth() {
        const float *a = at(s.form);
        float *x = at(s.point);
        for (int64_t k = 0; k < s.inputs * L; k += LANES)
            store(x + k, load(a + k) > 0 ? load(lower.data + k) : load(upper.data + k));
        for (const Move *m = s.forth; m < s.forth + s.forth_count; m++)
            if (m->kind == RELU)
                follow(*m);
            else
                move(*m);
    }

    void follow(const Move &m) {
        State &state = *states[m.which];
        const float *a = at(s.layers[m.which].kept), *z = at(m.from);
        each_split(m.which, [&](int i, int64_t domain, int64_t own) {
            float slope = -s.sign[domain] * (z[s.place[domain] * L + i] - s.bent[domain]);
            float mean = s.mean[own] += 0.1f * (slope - s.mean[own]);
            float square = s.square[own] = 0.999f * s.square[own] + 0.001f * slope * slope;
            float next = s.multiplier[own] +
                         rate[i] * s.multiplier_rate * s.scale[own] * (mean / (__builtin_sqrtf(square) + 1e-12f));
            s.multiplier[own] = next < 0 ? 0 : next;
        });
        vec pace[V];
        for (int v = 0; v < V; v++) pace[v] = load(rate + v * LANES) * all(s.rate);
        for (int64_t k = 0; k < m.size * L; k += L)
            for (int v = 0; v < V; v++) {
                int64_t i = k + v * LANES;
                vec x = load(z + i), c = load(a + i), shift = load(state.upper_shift.data + i);
                vec low = load(state.lower_slope.data + i);
                store(at(m.to) + i, c < 0 ? load(state.upper_slope.data + i) * x + shift : low * x);
                vec slope = c < 0 ? vec{} : shift != 0 ? c * x : vec{};
                vec mean = load(state.mean.data + i), square = load(state.square.data + i);
                mean += 0.1f * (slope - mean);
                square = 0.999f * square + 0.001f * slope * slope;
                store(state.mean.data + i, mean);
                store(state.square.data + i, square);
                low += pace[v] * (mean / (root(square) + 1e-12f));
                low = low < 0 ? vec{} : low;
                store(state.lower_slope.data + i, low > 1 ? all(1) : low);
            }
    }
};

// Threads take the next block, whoever is free: what becomes of a row does not depend on who sweeps it.
template <int V>
void swept(const Sweep &s) {
    constexpr int64_t L = V * LANES;
    const int64_t blocks = (s.count + L - 1) / L;
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    auto work = [&] {
        try {
            Block<V> block(s);
            for (int64_t k; (k = next++) < blocks;) block.run(s.row + k * L, s.count - k * L < L ? s.count - k * L : L);
        } catch (const std::bad_alloc &) {
            failed = true;
        }
    };
    std::vector<std::thread> others;
    try {
        for (int64_t i = 1; i < s.threads && i < blocks; i++) others.emplace_back(work);
    } catch (const std::system_error &) {  // then there are fewer
    }
    work();
    for (std::thread &other : others) other.join();
    if (failed) throw std::bad_alloc();
}

// Narrower blocks where there are fewer wide ones than threads.
void sweep(const Sweep &s) {
    auto suits = [&](int64_t vectors) {
        return s.vectors >= vectors && s.count > (vectors / 2) * LANES && s.count > (s.threads - 1) * vectors * LANES;
    };
    if (suits(4))
        swept<4>(s);
    else if (suits(2))
        swept<2>(s);
    else
        swept<1>(s);
}
