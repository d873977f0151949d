// What lies between the convolutions of the encoder, each in one pass over memory.
//
// A picture is [pixels, channels] in bf16, the channels of a pixel side by side; a batch is [n] of them. `lanes` is channels / 8: a thread
// holds 8 neighbouring channels of a pixel, 16 bytes, and keeps them from pixel to pixel. blockDim.x is a multiple of lanes, blockIdx.y the
// picture, blockIdx.x a span of `per_span` pixels. Sums are taken in a fixed order, so results have the same bits each time.

typedef unsigned char byte;
typedef unsigned short half_word;
typedef unsigned long long size;

const double EPSILON = 1e-6;

struct alignas(16) Eight {
    unsigned pairs[4];
};

// bf16 is the upper half of an f32; the lower channel of a pair lies in the lower half of its word.
__device__ inline void unpack(const Eight& packed, float* values) {
    for (int i = 0; i < 4; i++) {
        values[2 * i] = __uint_as_float(packed.pairs[i] << 16);
        values[2 * i + 1] = __uint_as_float(packed.pairs[i] & 0xffff0000u);
    }
}

// To the nearest bf16, ties to even.
__device__ inline unsigned rounded(float value) {
    unsigned bits = __float_as_uint(value);
    return value != value ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}

__device__ inline Eight pack(const float* values) {
    Eight packed;
    for (int i = 0; i < 4; i++) packed.pairs[i] = rounded(values[2 * i]) | rounded(values[2 * i + 1]) << 16;
    return packed;
}

// Where a thread works.
struct Place {
    int lane, row, rows, begin, end;
    size image;

    __device__ Place(int pixels, int lanes, int per_span) {
        lane = threadIdx.x % lanes, row = threadIdx.x / lanes, rows = blockDim.x / lanes;
        begin = blockIdx.x * per_span, end = min(begin + per_span, pixels);
        image = (size)blockIdx.y * pixels * lanes;
    }

    __device__ size at(int pixel, int lanes) const { return image + (size)pixel * lanes + lane; }
};

// Sum and sum of squares of 8 channels.
struct Moments {
    float sum[8] = {}, square[8] = {};

    __device__ void take(const float* values) {
        for (int i = 0; i < 8; i++) sum[i] += values[i], square[i] += values[i] * values[i];
    }

    // Adds up the threads of a block, into sums[n][spans][channels]. Shared memory: 8 float2 for each thread.
    __device__ void write(const Place& place, int lanes, float2* sums) const {
        extern __shared__ float2 shared[];
        int channels = lanes * 8;
        for (int i = 0; i < 8; i++) shared[place.row * channels + place.lane * 8 + i] = make_float2(sum[i], square[i]);
        __syncthreads();
        float2* out = sums + ((size)blockIdx.y * gridDim.x + blockIdx.x) * channels;
        for (int channel = threadIdx.x; channel < channels; channel += blockDim.x) {
            float2 total = make_float2(0, 0);
            for (int row = 0; row < place.rows; row++) {
                float2 part = shared[row * channels + channel];
                total.x += part.x, total.y += part.y;
            }
            out[channel] = total;
        }
    }
};

// Levels of a picture to their values in bf16, table[256].
extern "C" __global__ void value(const byte* levels, const half_word* table, half_word* out, int count) {
    size image = (size)blockIdx.y * count;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) out[image + i] = table[levels[image + i]];
}

// Moments of x.
extern "C" __global__ void sum(const Eight* x, float2* sums, int pixels, int lanes, int per_span) {
    Place place(pixels, lanes, per_span);
    Moments moments;
#pragma unroll 4
    for (int pixel = place.begin + place.row; pixel < place.end; pixel += place.rows) {
        float values[8];
        unpack(x[place.at(pixel, lanes)], values);
        moments.take(values);
    }
    moments.write(place, lanes, sums);
}

// out = x + bias + shortcut, and its moments. shortcut and sums may be null. Pictures of out are `width` + `margin` pixels wide and as much
// higher: what is beyond x is left as it is. bias[channels].
extern "C" __global__ void add(const Eight* x, const float* bias, const Eight* shortcut, Eight* out, float2* sums, int pixels, int lanes, int per_span, int width, int margin) {
    Place place(pixels, lanes, per_span);
    Moments moments;
    float biases[8];
    for (int i = 0; i < 8; i++) biases[i] = bias[place.lane * 8 + i];
    size image_out = (size)blockIdx.y * (pixels / width + margin) * (width + margin) * lanes;
#pragma unroll 4
    for (int pixel = place.begin + place.row; pixel < place.end; pixel += place.rows) {
        float values[8], more[8];
        unpack(x[place.at(pixel, lanes)], values);
        for (int i = 0; i < 8; i++) values[i] += biases[i];
        if (shortcut) {
            unpack(shortcut[place.at(pixel, lanes)], more);
            for (int i = 0; i < 8; i++) values[i] += more[i];
        }
        Eight packed = pack(values);
        out[image_out + (size)(pixel + pixel / width * margin) * lanes + place.lane] = packed;
        if (sums) {
            // What is normalised later is what was written.
            unpack(packed, values);
            moments.take(values);
        }
    }
    if (sums) moments.write(place, lanes, sums);
}

// Scale and shift of each channel, scales[n][channels], by which x + bias is normalised in groups. bias may be null.
// grid (groups, n), 128 threads.
extern "C" __global__ void settle(const float2* sums, const float* bias, const float* weight, const float* offset, float2* scales, int pixels, int channels, int spans) {
    __shared__ double totals[128], squares[128];
    int in_group = channels / gridDim.x, first = blockIdx.x * in_group;
    double total = 0, square = 0;
    for (int i = threadIdx.x; i < spans * in_group; i += blockDim.x) {
        int span = i / in_group, channel = first + i % in_group;
        float2 part = sums[((size)blockIdx.y * spans + span) * channels + channel];
        double b = bias ? bias[channel] : 0;
        // The bias moves each pixel; of a channel they are counted with its first span.
        double count = span == 0 ? pixels : 0;
        total += part.x + b * count;
        square += part.y + 2 * b * part.x + b * b * count;
    }
    totals[threadIdx.x] = total, squares[threadIdx.x] = square;
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) totals[threadIdx.x] += totals[threadIdx.x + half], squares[threadIdx.x] += squares[threadIdx.x + half];
    }
    __syncthreads();
    double count = (double)pixels * in_group, mean = totals[0] / count, variance = squares[0] / count - mean * mean;
    double inverse = rsqrt(max(variance, 0.0) + EPSILON);
    for (int i = threadIdx.x; i < in_group; i += blockDim.x) {
        int channel = first + i;
        double scale = weight[channel] * inverse, b = bias ? bias[channel] : 0;
        scales[(size)blockIdx.y * channels + channel] = make_float2(scale, offset[channel] + (b - mean) * scale);
    }
}

// out = x scaled and shifted, then swish if wanted.
extern "C" __global__ void normalize(const Eight* x, const float2* scales, Eight* out, int pixels, int lanes, int per_span, int swish) {
    Place place(pixels, lanes, per_span);
    float2 by[8];
    for (int i = 0; i < 8; i++) by[i] = scales[((size)blockIdx.y * lanes + place.lane) * 8 + i];
#pragma unroll 4
    for (int pixel = place.begin + place.row; pixel < place.end; pixel += place.rows) {
        float values[8];
        unpack(x[place.at(pixel, lanes)], values);
        for (int i = 0; i < 8; i++) {
            float y = values[i] * by[i].x + by[i].y;
            values[i] = swish ? y / (1 + __expf(-y)) : y;
        }
        out[place.at(pixel, lanes)] = pack(values);
    }
}
