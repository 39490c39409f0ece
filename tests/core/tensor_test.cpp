#include <catch2/catch.hpp>
#include <limits>
#include <vector>

#include "core/tensor.h"
#include "tests/core/values.h"

namespace conclave {
namespace {

Tensor counting(const Shape& shape) {
  const Tensor values = Tensor::empty(shape);
  for (Index i = 0; i < values.numel(); ++i) values.data<float>()[i] = static_cast<float>(i);
  return values;
}

std::vector<float> elements(const Tensor& tensor) {
  const auto values = tensor.span<float>();
  return {values.begin(), values.end()};
}

TEST_CASE("a shape counts its elements and refuses an overflow", "[tensor]") {
  CHECK(Shape{}.numel() == 1);
  CHECK(Shape{3, 0, 5}.numel() == 0);
  CHECK(Shape{3, 4, 5}.to_string() == "[3, 4, 5]");
  CHECK(Shape{2, 3} != Shape{3, 2});
  CHECK(Shape{2, 3} != Shape{2, 3, 1});
  CHECK((Shape{Index{1} << 31, Index{1} << 31}.numel()) == Index{1} << 62);
  CHECK_THROWS_AS((Shape{Index{1} << 32, Index{1} << 31}.numel()), Error);
  CHECK_THROWS_AS((Shape{Index{1} << 32, Index{1} << 31, 0}.numel()), Error);
  CHECK_THROWS_WITH((Shape{2, -1}.numel()),
                    "shape: [2, -1] has a negative extent or more elements than can be counted");
  CHECK_THROWS_WITH((Shape{1, 1, 1, 1, 1, 1, 1}), "shape: 7 dimensions, at most 6 are supported");
}

TEST_CASE("a tensor too large for the address space is an Error, not a small allocation", "[tensor]") {
  const Index huge = std::numeric_limits<Index>::max() / 2;
  CHECK_THROWS_AS(Tensor::empty({huge}, DType::f64), Error);
}

TEST_CASE("values must fill the shape", "[tensor]") {
  CHECK(elements(Tensor::of<float>({2, 2}, {1, 2, 3, 4})) == std::vector<float>{1, 2, 3, 4});
  CHECK_THROWS_WITH(Tensor::of<float>({2, 2}, {1, 2, 3}), "tensor: 3 values do not fill shape [2, 2]");
}

TEST_CASE("asking for elements of another type is an Error", "[tensor]") {
  CHECK_THROWS_WITH(counting({2}).data<double>(), "tensor: asked for f64 elements of a tensor of f32");
}

TEST_CASE("a copied handle and a view share memory with the tensor", "[tensor]") {
  const Tensor x = counting({4, 6});
  const Tensor handle = x;
  const Tensor row = x.rows(2, 3);
  handle.data<float>()[12] = -1;
  CHECK(row.data<float>()[0] == -1);
  CHECK(row.shape() == Shape{1, 6});
}

TEST_CASE("a view keeps the memory of an owner that is gone", "[tensor]") {
  Tensor view;
  {
    const Tensor x = counting({8, 8});
    view = x.slice(1, 2, 4);
  }
  CHECK(elements(view.clone())[2] == 10);
}

TEST_CASE("slices count from the end with negative dimensions and stay inside", "[tensor]") {
  const Tensor x = counting({4, 6});
  const Tensor columns = x.slice(-1, 1, 3);
  CHECK(columns.shape() == Shape{4, 2});
  CHECK(columns.stride(0) == 6);
  CHECK_FALSE(columns.contiguous());
  CHECK(elements(columns.clone()) == std::vector<float>{1, 2, 7, 8, 13, 14, 19, 20});
  CHECK(x.rows(4, 4).numel() == 0);
  CHECK_THROWS_WITH(x.slice(0, 3, 5), "slice: [3, 5) of dimension 0 does not lie in shape [4, 6]");
  CHECK_THROWS_AS(x.slice(0, -1, 2), Error);
  CHECK_THROWS_AS(x.slice(0, 3, 2), Error);
  CHECK_THROWS_AS(x.slice(2, 0, 1), Error);
}

TEST_CASE("a transposed view clones into transposed elements", "[tensor]") {
  const Tensor x = counting({2, 3});
  const Tensor t = x.transpose(0, 1);
  CHECK(t.shape() == Shape{3, 2});
  CHECK_FALSE(t.contiguous());
  CHECK(elements(t.clone()) == std::vector<float>{0, 3, 1, 4, 2, 5});
  CHECK(t.transpose(-1, -2).contiguous());
  CHECK(counting({1, 5}).transpose(0, 1).contiguous());  // the order of the elements is the same
  CHECK_THROWS_AS(x.transpose(0, 2), Error);

  const Tensor cube = counting({2, 3, 4}).slice(2, 1, 3).transpose(0, 2);
  CHECK(elements(cube.clone()) == std::vector<float>{1, 13, 5, 17, 9, 21, 2, 14, 6, 18, 10, 22});
}

TEST_CASE("views with gaps refuse what needs contiguous elements", "[tensor]") {
  const Tensor view = counting({4, 6}).slice(1, 0, 2);
  CHECK_THROWS_WITH(view.span<float>(),
                    "tensor: a span needs contiguous elements, this view [4, 2] has gaps");
  CHECK_THROWS_WITH(view.reshape({8}), "reshape: the view [4, 2] is not contiguous; clone it first");
  CHECK_THROWS_AS(view.zero(), Error);
  CHECK_THROWS_AS(view.copy_from(counting({4, 2})), Error);
}

TEST_CASE("reshape keeps the order of the elements and their number", "[tensor]") {
  const Tensor x = counting({2, 6});
  CHECK(elements(x.reshape({3, 4})) == elements(x));
  CHECK_THROWS_WITH(x.reshape({5}), "reshape: [2, 6] has 12 elements, [5] has 5");
}

TEST_CASE("views carry no gradient slot", "[tensor]") {
  Tensor x = counting({4, 6});
  x.slot = reinterpret_cast<GradientSlot*>(x.raw());  // any address; never dereferenced
  CHECK(x.reshape({24}).slot == nullptr);
  CHECK(x.rows(0, 1).slot == nullptr);
  CHECK(x.transpose(0, 1).slot == nullptr);
  CHECK(x.clone().slot == nullptr);
}

TEST_CASE("conversion rounds as the element type does, also of strided views", "[tensor]") {
  const Tensor x = Tensor::of<float>({2, 2}, {1.00390625f, -2.5f, 3e38f, 7.75f});
  const Tensor half = x.to(DType::bf16);
  CHECK(elements(half.to(DType::f32))[0] == 1.0f);
  const Tensor integers = x.slice(1, 1, 2).to(DType::i32);
  CHECK(integers.data<std::int32_t>()[0] == -2);
  CHECK(integers.data<std::int32_t>()[1] == 7);
  CHECK(x.to(DType::f64).data<double>()[3] == 7.75);
}

TEST_CASE("integers beyond 2^53 survive a conversion to integers", "[tensor]") {
  const std::int64_t large = (std::int64_t{1} << 53) + 1;
  CHECK(Tensor::of<std::int64_t>({1}, {large}).to(DType::i64).data<std::int64_t>()[0] == large);
}

TEST_CASE("fill and zero reach every element of every type", "[tensor]") {
  for (const DType dtype :
       {DType::f32, DType::f64, DType::bf16, DType::i64, DType::i32, DType::i8, DType::u8}) {
    const Tensor x = Tensor::empty({3, 5}, dtype);
    x.fill(3);
    CHECK(distance(x, Tensor::of<double>({3, 5}, std::vector<double>(15, 3.0))) == 0);
    x.zero();
    CHECK(distance(x, Tensor::zeros({3, 5})) == 0);
  }
  const Tensor columns = Tensor::zeros({3, 5}).slice(1, 0, 2);
  CHECK_THROWS_WITH(columns.fill(3), "fill: the view [3, 2] is not contiguous");
  CHECK_THROWS_WITH(columns.zero(), "zero: the view [3, 2] is not contiguous");
}

TEST_CASE("copying checks number and type of the elements", "[tensor]") {
  const Tensor x = Tensor::zeros({2, 3});
  x.copy_from(counting({6}));
  CHECK(elements(x)[5] == 5);
  CHECK_THROWS_WITH(
      x.copy_from(Tensor::zeros({2, 3}, DType::f64)),
      "copy: [2, 3] of f64 into [2, 3] of f32; both must be contiguous, of one dtype and number of elements");
  CHECK_THROWS_AS(x.copy_from(counting({5})), Error);
}

}  // namespace
}  // namespace conclave
