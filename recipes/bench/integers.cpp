// Compares the forward pass of experts with integer products with that of the same experts in f32.
#include <cblas.h>
#include <fmt/format.h>

#include <vector>

#include "core/kernels/integer_product.h"
#include "recipes/bench/bench.h"

// The name of the processor for which OpenBLAS chose its kernels.
namespace conclave::bench {
namespace {

using namespace kernels;

constexpr Index kHidden = 1024, kTokens = 256, kExperts = 8, kTopK = 2;

// Experts that compute down(gelu(up(x))).
class Experts {
 public:
  explicit Experts(Index ffn) : ffn_(ffn) {
    fill(x_, 0);
    fill(up_, 1);
    fill(down_, 2);
    pack(up_, packed_up_);
    pack(down_, packed_down_);
    for (Index e = 0; e <= kExperts; ++e) offsets_.push_back(e * kRows / kExperts);
  }

  void in_f32(RowBits bits) const {
    grouped_linear(x_, offsets_, up_, bias_, Activation::gelu, inner_, Tensor(), bits);
    grouped_linear(inner_, offsets_, down_, Tensor(), Activation::none, y_, Tensor(), bits);
  }
  // Each row is quantized with its own scale.
  void in_integers(QuantLevels levels, IntegerPath path) const {
    quantize_rows(x_, levels, rows_);
    integer_product(rows_, levels.highest, offsets_, packed_up_, bias_, Activation::gelu, inner_, path);
    quantize_rows(inner_, levels, inner_rows_);
    integer_product(inner_rows_, levels.highest, offsets_, packed_down_, Tensor(), Activation::none, y_,
                    path);
  }
  // All rows are quantized with fixed scales, so the inner rows stay integers.
  void in_integers_throughout(QuantLevels levels, IntegerPath path) const {
    quantize_by(x_, levels, fixed_rows_);
    integer_product(fixed_rows_, levels.highest, offsets_, packed_up_, bias_, Activation::gelu,
                    fixed_inner_rows_, levels, path);
    integer_product(fixed_inner_rows_, levels.highest, offsets_, packed_down_, Tensor(), Activation::none, y_,
                    path);
  }

 private:
  static constexpr Index kRows = kTokens * kTopK;

  static void pack(const Tensor& weight, const IntegerWeights& to) {
    const Tensor scale = Tensor::empty({kExperts * to.out});
    scale.fill(0.5 / 127);
    pack_weights(weight, scale, QuantLevels::symmetric(8), to);
  }
  static IntegerRows rows_of(Index length, Index scales) {
    const IntegerRows rows{Tensor::zeros({kRows, length}, DType::u8), Tensor::empty({scales}),
                           Tensor::empty({scales})};
    rows.scale.fill(0.02);
    rows.zero_point.fill(40);
    return rows;
  }

  Index ffn_;
  std::vector<Index> offsets_;
  Tensor x_ = Tensor::empty({kRows, kHidden}), up_ = Tensor::empty({kExperts, ffn_, kHidden}),
         bias_ = Tensor::zeros({kExperts, ffn_}), down_ = Tensor::empty({kExperts, kHidden, ffn_}),
         inner_ = Tensor::empty({kRows, ffn_}), y_ = Tensor::empty({kRows, kHidden});
  IntegerWeights packed_up_ = IntegerWeights::empty(kExperts, ffn_, kHidden),
                 packed_down_ = IntegerWeights::empty(kExperts, kHidden, ffn_);
  IntegerRows rows_ = rows_of(kHidden, kRows), inner_rows_ = rows_of(ffn_, kRows),
              fixed_rows_ = rows_of(kHidden, 1), fixed_inner_rows_ = rows_of(ffn_, 1);
};

}  // namespace

void integers(std::int64_t repetitions) {
  fmt::print(
      "f32 products by OpenBLAS for {}; AVX2 alone: build with -DCONCLAVE_AVX512=OFF, run with "
      "OPENBLAS_CORETYPE=Haswell\n",
      openblas_get_corename());
  for (const Index ffn : {1024, 4096}) {
    const Experts experts(ffn);
    for (const IntegerPath path : integer_paths()) {
      if (path == IntegerPath::portable) continue;
      for (const int bits : {7, 8}) {
        const QuantLevels levels = QuantLevels::affine(bits);
        const auto measure = [&](const char* scales, const std::function<void()>& work) {
          const Comparison time = compare(
              work, [&] { experts.in_f32(RowBits::fastest); }, repetitions);
          print_figure(fmt::format("{} x {} experts, {} -> {}, {}-bit inputs, {}, {}", kTokens, kTopK,
                                   kHidden, ffn, bits, scales, name_of(path)),
                       fmt::format("{:.1f} ms, {:.2f} x f32", 1e3 * time.subject, time.ratio), 1.6);
        };
        measure("rows' scales", [&] { experts.in_integers(levels, path); });
        measure("fixed scales", [&] { experts.in_integers_throughout(levels, path); });
      }
    }
    const Comparison time = compare([&] { experts.in_f32(RowBits::independent); },
                                    [&] { experts.in_f32(RowBits::fastest); }, repetitions);
    print_figure(fmt::format("the same in f32, {}, rows independent of their number", ffn),
                 fmt::format("{:.1f} ms, {:.2f} x f32", 1e3 * time.subject, time.ratio));
  }
}

}  // namespace conclave::bench
