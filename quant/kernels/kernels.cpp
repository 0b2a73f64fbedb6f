// Uniform quantization on the CPU, each function one pass over memory; quant/kernels/calls.py calls them.
//
// The arithmetic is quant/functional.py's to the bit: the same operations in the same order, each rounded to float32.
// It has to be compiled without contraction into fused multiply-adds. Sums are taken as functional.folded takes them, so
// that no result depends on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

namespace {

constexpr int64_t PIECE = 8192;  // elements: a thread's share of work, two or three of them fit its first-level cache

// A feature [n_samples, channels, h, w] given as parts that would be concatenated over channels.
struct Feature {
    const float *const *parts;
    const int64_t *sizes;  // elements of a sample, by part
    int64_t n_parts, n_samples;
};

// One pair of bounds for all samples, or one a sample.
struct Bounds {
    const float *lower, *upper;
    int64_t count;
    int k_bits;
};

// Elements of one part of one sample: their places in the part and in the concatenation.
struct Piece {
    int64_t part, sample, within_part, within_whole, length;
};

// row: pieces end where rows of so many elements do.
std::vector<Piece> pieces_of(const Feature &feature, int64_t row = 1) {
    const int64_t most = std::max(PIECE / row, int64_t(1)) * row;
    std::vector<Piece> pieces;
    int64_t whole = 0;
    for (int64_t sample = 0; sample < feature.n_samples; sample++)
        for (int64_t part = 0; part < feature.n_parts; part++) {
            const int64_t size = feature.sizes[part];
            for (int64_t start = 0; start < size; start += most)
                pieces.push_back({part, sample, sample * size + start, whole + start, std::min(most, size - start)});
            whole += size;
        }
    return pieces;
}

template <class Work>
void for_each(int64_t count, int n_threads, Work work) {
#pragma omp parallel for num_threads(n_threads) if (n_threads > 1 && count > 3)
    for (int64_t i = 0; i < count; i++) work(i);
}

// functional.raised_upper and functional.scale_and_zero
struct Grid {
    float lower, upper, scale, zero;

    Grid(const Bounds &bounds, int64_t sample) {
        const int64_t i = bounds.count == 1 ? 0 : sample;
        lower = bounds.lower[i];
        upper = bounds.upper[i];
        const float floor = std::max(std::fabs(lower), std::fabs(upper)) * 1e-4f + 1e-8f;
        if (upper - lower < floor) upper = lower + floor;
        scale = (1.0f / (upper - lower)) * float((1 << bounds.k_bits) - 1);  // in torch's order
        zero = std::nearbyint(scale * lower) + float(1 << (bounds.k_bits - 1));
    }

    float clip(float x) const {
        x = x < lower ? lower : x;
        return x > upper ? upper : x;
    }

    float snap(float clipped) const { return (std::nearbyint(clipped * scale - zero) + zero) / scale; }
};

// [a < b], one half where neither is less
inline float less(float a, float b) { return a < b ? 1.0f : a > b ? 0.0f : 0.5f; }

// functional.folded: the second half is added to the first until one element is left, the sum. Overwrites x.
template <class Number>
Number folded(Number *x, int64_t width) {
    while (width > 1) {
        const int64_t half = (width + 1) / 2;
#pragma omp simd
        for (int64_t i = 0; i < width - half; i++) x[i] += x[half + i];
        width = half;
    }
    return x[0];
}

// grad_x, and what each element adds to the gradients of the bounds.
void backward(const float *x, const float *grad, int64_t length, const Grid &grid, float per_level, float *grad_x,
              float *to_lower, float *to_upper) {
#pragma omp simd
    for (int64_t i = 0; i < length; i++) {
        const float capped = x[i] > grid.upper ? grid.upper : x[i];
        const float clipped = capped < grid.lower ? grid.lower : capped;
        const float level = clipped * grid.scale - grid.zero;
        const float to_capped = grad[i] * less(grid.lower, capped);
        const float rounding = (std::nearbyint(level) - level) * per_level * grad[i];
        grad_x[i] = to_capped * less(x[i], grid.upper);
        to_lower[i] = (grad[i] - to_capped) - rounding;
        to_upper[i] = (to_capped - grad_x[i]) + rounding;
    }
}

}  // namespace

extern "C" {

// y: the quantized concatenation of the parts.
void ddtb_quantize(const float *const *parts, const int64_t *sizes, int64_t n_parts, int64_t n_samples,
                   const float *lower, const float *upper, int64_t n_bounds, int k_bits, int n_threads, float *y) {
    const Bounds bounds{lower, upper, n_bounds, k_bits};
    const auto pieces = pieces_of({parts, sizes, n_parts, n_samples});
    for_each(pieces.size(), n_threads, [&](int64_t i) {
        const Piece piece = pieces[i];
        const Grid grid(bounds, piece.sample);
        const float *from = parts[piece.part] + piece.within_part;
        float *to = y + piece.within_whole;
#pragma omp simd
        for (int64_t j = 0; j < piece.length; j++) to[j] = grid.snap(grid.clip(from[j]));
    });
}

// grad: of y. grad_parts: a buffer for each part. grad_lower, grad_upper: n_bounds numbers each, or both null.
// row: the length of the rows that functional.summed adds up first; every part of a sample has a whole number of them.
void ddtb_quantize_backward(const float *const *parts, const int64_t *sizes, int64_t n_parts, int64_t n_samples,
                            const float *lower, const float *upper, int64_t n_bounds, int k_bits, int n_threads,
                            const float *grad, float *const *grad_parts, int64_t row, float *grad_lower,
                            float *grad_upper) {
    const Bounds bounds{lower, upper, n_bounds, k_bits};
    const float per_level = 1.0f / float((1 << k_bits) - 1);
    const auto pieces = pieces_of({parts, sizes, n_parts, n_samples}, row);
    const int64_t n_rows = (pieces.back().within_whole + pieces.back().length) / row;
    std::vector<double> to_lower(grad_lower ? n_rows : 0), to_upper(to_lower.size());
    for_each(pieces.size(), n_threads, [&](int64_t i) {
        const Piece piece = pieces[i];
        const float *x = parts[piece.part] + piece.within_part, *g = grad + piece.within_whole;
        float *grad_x = grad_parts[piece.part] + piece.within_part;
        const Grid grid(bounds, piece.sample);
        const std::unique_ptr<float[]> lowers(new float[piece.length]), uppers(new float[piece.length]);
        backward(x, g, piece.length, grid, per_level, grad_x, lowers.get(), uppers.get());
        for (int64_t start = 0; grad_lower && start < piece.length; start += row) {
            const int64_t number = (piece.within_whole + start) / row;
            to_lower[number] = folded(&lowers[start], row);
            to_upper[number] = folded(&uppers[start], row);
        }
    });
    if (!grad_lower) return;
    const int64_t rows = n_rows / n_bounds;
    for (int64_t i = 0; i < n_bounds; i++) {
        grad_lower[i] = float(folded(&to_lower[i * rows], rows));
        grad_upper[i] = float(folded(&to_upper[i * rows], rows));
    }
}

}  // extern "C"
