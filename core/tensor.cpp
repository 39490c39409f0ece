#include "core/tensor.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "core/cuda/memory.h"

namespace conclave {
namespace {

Shape contiguous_strides(const Shape& shape) {
  Shape strides = shape;
  Index step = 1;
  for (int dim = shape.rank() - 1; dim >= 0; --dim) {
    strides[dim] = step;
    step *= std::max<Index>(shape[dim], 1);
  }
  return strides;
}

template <class Body>
void for_any(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::f32:
      return body(float{});
    case DType::f64:
      return body(double{});
    case DType::bf16:
      return body(BFloat16{});
    case DType::i64:
      return body(std::int64_t{});
    case DType::i32:
      return body(std::int32_t{});
    case DType::i8:
      return body(std::int8_t{});
    case DType::u8:
      return body(std::uint8_t{});
  }
}

template <class T>
T from_double(double value) {
  if constexpr (std::is_same_v<T, BFloat16>)
    return BFloat16(static_cast<float>(value));
  else
    return static_cast<T>(value);
}

template <class T>
double to_double(T value) {
  if constexpr (std::is_same_v<T, BFloat16>)
    return static_cast<float>(value);
  else
    return static_cast<double>(value);
}

}  // namespace

Shape::Shape(std::initializer_list<Index> extents)
    : Shape(std::span<const Index>(extents.begin(), extents.size())) {}

Shape::Shape(std::span<const Index> extents) : rank_(static_cast<int>(extents.size())) {
  require(rank_ <= kMaxRank, "shape: {} dimensions, at most {} are supported", extents.size(), kMaxRank);
  std::copy(extents.begin(), extents.end(), extents_.begin());
}

Index Shape::numel() const {
  Index product = 1;
  bool empty = false;
  for (Index extent : extents()) {  // called very often: builds text for an error only
    empty = empty || extent == 0;
    if (extent < 0 || __builtin_mul_overflow(product, std::max<Index>(extent, 1), &product)) [[unlikely]]
      fail("shape: {} has a negative extent or more elements than can be counted", to_string());
  }
  return empty ? 0 : product;
}

std::string Shape::to_string() const {
  std::string text = "[";
  for (int dim = 0; dim < rank_; ++dim) text += (dim ? ", " : "") + std::to_string((*this)[dim]);
  return text + "]";
}

bool Shape::operator==(const Shape& other) const { return std::ranges::equal(extents(), other.extents()); }

Tensor Tensor::borrow(void* data, const Shape& shape, DType dtype, Device device) {
  Tensor tensor;
  tensor.data_ = data;
  tensor.shape_ = shape;
  tensor.strides_ = contiguous_strides(shape);
  tensor.numel_ = shape.numel();
  tensor.dtype_ = dtype;
  tensor.device_ = device;
  return tensor;
}

Tensor Tensor::own(std::shared_ptr<void> owner, void* data, const Shape& shape, DType dtype, Device device) {
  Tensor tensor = borrow(data, shape, dtype, device);
  tensor.owner_ = std::move(owner);
  return tensor;
}

Tensor Tensor::empty(const Shape& shape, DType dtype) {
  std::size_t bytes = 0;
  require(!__builtin_mul_overflow(static_cast<std::size_t>(shape.numel()), size_of(dtype), &bytes),
          "tensor: shape {} of {} has more bytes than can be addressed", shape, name_of(dtype));
  void* data = ::operator new (std::max<std::size_t>(bytes, 1), std::align_val_t{kAlignment}, std::nothrow);
  require(data != nullptr, "tensor: no memory for {} bytes (shape {} of {})", bytes, shape, name_of(dtype));
  std::shared_ptr<void> owner(data,
                              [](void* memory) { ::operator delete (memory, std::align_val_t{kAlignment}); });
  return own(std::move(owner), data, shape, dtype, Device::cpu);
}

Tensor Tensor::zeros(const Shape& shape, DType dtype) {
  Tensor tensor = empty(shape, dtype);
  tensor.zero();
  return tensor;
}

Tensor Tensor::zeros_beside(Device device, const Shape& shape, DType dtype) {
  if constexpr (kBuiltWithCuda)
    if (const auto count = static_cast<std::size_t>(shape.numel()); device == Device::cuda && count > 0) {
      std::shared_ptr<cuda::PinnedMemory> memory;
      try {
        memory = std::make_shared<cuda::PinnedMemory>(count * size_of(dtype));
      } catch (const Error&) {  // refused; if the device is broken, its next operation says so
        return zeros(shape, dtype);
      }
      void* const data = memory->data();
      const Tensor tensor = own(std::move(memory), data, shape, dtype, Device::cpu);
      tensor.zero();
      return tensor;
    }
  return zeros(shape, dtype);
}

bool Tensor::contiguous() const {
  Index expected = 1;
  for (int dim = rank() - 1; dim >= 0; --dim) {
    if (shape_[dim] != 1 && strides_[dim] != expected) return numel_ == 0;
    expected *= shape_[dim];
  }
  return true;
}

Tensor Tensor::reshape(const Shape& shape) const {
  require(contiguous(), "reshape: the view {} is not contiguous; clone it first", shape_);
  require(shape.numel() == numel_, "reshape: {} has {} elements, {} has {}", shape_, numel_, shape,
          shape.numel());
  Tensor view = *this;
  view.slot = nullptr;
  view.shape_ = shape;
  view.strides_ = contiguous_strides(shape);
  return view;
}

Tensor Tensor::slice(int dim, Index begin, Index end) const {
  if (dim < 0) dim += rank();
  require(dim >= 0 && dim < rank() && begin >= 0 && begin <= end && end <= shape_[dim],
          "slice: [{}, {}) of dimension {} does not lie in shape {}", begin, end, dim, shape_);
  Tensor view = *this;
  view.slot = nullptr;
  view.data_ =
      static_cast<std::byte*>(data_) + static_cast<std::size_t>(begin * strides_[dim]) * size_of(dtype_);
  view.shape_[dim] = end - begin;
  view.numel_ = view.shape_.numel();
  return view;
}

Tensor Tensor::transpose(int first, int second) const {
  if (first < 0) first += rank();
  if (second < 0) second += rank();
  require(first >= 0 && second >= 0 && first < rank() && second < rank(),
          "transpose: dimensions {} and {} are not both in shape {}", first, second, shape_);
  Tensor view = *this;
  view.slot = nullptr;
  std::swap(view.shape_[first], view.shape_[second]);
  std::swap(view.strides_[first], view.strides_[second]);
  return view;
}

void Tensor::fill(double value) const {
  require(contiguous(), "fill: the view {} is not contiguous", shape_);
  if constexpr (kBuiltWithCuda)
    if (device_ == Device::cuda) return cuda::fill(*this, value);
  for_any(dtype_, [&]<class T>(T) { std::ranges::fill(span<T>(), from_double<T>(value)); });
}

void Tensor::zero() const {
  require(contiguous(), "zero: the view {} is not contiguous", shape_);
  if constexpr (kBuiltWithCuda)
    if (device_ == Device::cuda) return cuda::zero(*this);
  constexpr std::size_t kChunk = std::size_t{1} << 18;  // bytes per task
  auto* to = static_cast<std::byte*>(data_);
  const std::size_t total = bytes();
#pragma omp parallel for schedule(static) if (total > kChunk)
  for (std::size_t begin = 0; begin < total; begin += kChunk)
    std::memset(to + begin, 0, std::min(kChunk, total - begin));
}

void Tensor::copy_from(const Tensor& source) const {
  queue_copy_from(source);
  if (device_ != source.device_) synchronize(Device::cuda);
}

void Tensor::queue_copy_from(const Tensor& source) const {
  require(dtype_ == source.dtype_ && numel_ == source.numel_ && contiguous() && source.contiguous(),
          "copy: {} of {} into {} of {}; both must be contiguous, of one dtype and number of elements",
          source.shape_, name_of(source.dtype_), shape_, name_of(dtype_));
  if constexpr (kBuiltWithCuda)
    if (device_ == Device::cuda || source.device_ == Device::cuda) return cuda::copy(source, *this);
  if (numel_ > 0) std::memcpy(data_, source.data_, bytes());
}

Tensor Tensor::clone() const {
  Tensor copy = empty(shape_, dtype_);
  if (contiguous()) {
    copy.copy_from(*this);
    return copy;
  }
  require(device_ == Device::cpu,
          "clone: the view {} is of a device's memory and not contiguous; clone what it is a view of",
          shape_);
  const std::size_t size = size_of(dtype_);
  auto* to = static_cast<std::byte*>(copy.data_);
  for (Index flat = 0; flat < numel_; ++flat) {
    Index offset = 0;
    for (Index rest = flat, dim = rank() - 1; dim >= 0; --dim) {
      const int d = static_cast<int>(dim);
      offset += rest % shape_[d] * strides_[d];
      rest /= shape_[d];
    }
    std::memcpy(to + static_cast<std::size_t>(flat) * size,
                static_cast<const std::byte*>(data_) + static_cast<std::size_t>(offset) * size, size);
  }
  return copy;
}

Tensor Tensor::to(DType dtype) const {
  const Tensor source = contiguous() ? *this : clone();
  Tensor result = empty(shape_, dtype);
  for_any(dtype_, [&]<class From>(From) {
    for_any(dtype, [&]<class To>(To) {
      std::ranges::transform(source.span<From>(), result.data<To>(), [](From value) {
        if constexpr (std::is_integral_v<From> && std::is_integral_v<To>)
          return static_cast<To>(value);  // not through f64, which holds integers up to 2^53 only
        else
          return from_double<To>(to_double(value));
      });
    });
  });
  return result;
}

}  // namespace conclave
