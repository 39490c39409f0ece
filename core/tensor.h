// A Tensor is a small handle by value: where the numbers are, how they are laid out, and (for what is
// trained) the slot its gradient goes to. Copying one copies the handle. Memory belongs to an Arena, to the
// heap through a shared owner, or to someone else; nothing about a handle allocates unless it says so.
#pragma once

#include <array>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>

#include "core/device.h"
#include "core/dtype.h"
#include "core/error.h"

namespace conclave {

using Index = std::int64_t;

/// Defined by autograd; core only carries the pointer, so that one handle serves readers of both folders.
struct GradientSlot;

/// Up to six extents, inline.
class Shape {
 public:
  static constexpr int kMaxRank = 6;

  Shape() = default;
  Shape(std::initializer_list<Index> extents);
  explicit Shape(std::span<const Index> extents);

  int rank() const { return rank_; }
  Index operator[](int dim) const { return extents_[static_cast<std::size_t>(dim)]; }
  Index& operator[](int dim) { return extents_[static_cast<std::size_t>(dim)]; }
  /// Product of the extents, 1 for rank 0; throws Error where it overflows 63 bits or an extent is negative.
  Index numel() const;
  std::span<const Index> extents() const { return {extents_.data(), static_cast<std::size_t>(rank_)}; }
  std::string to_string() const;  ///< "[64, 256]"
  bool operator==(const Shape& other) const;

 private:
  std::array<Index, kMaxRank> extents_{};
  int rank_ = 0;
};

}  // namespace conclave

/// A check that holds makes no text of its shapes.
template <>
struct fmt::formatter<conclave::Shape> {
  constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
  template <class Context>
  auto format(const conclave::Shape& shape, Context& context) const {
    return fmt::format_to(context.out(), "{}", shape.to_string());
  }
};

namespace conclave {

/// Bytes, of a tensor's own memory on the host: one cache line, and the widest vector register.
inline constexpr std::size_t kAlignment = 64;

class Tensor {
 public:
  Tensor() = default;

  /// Owning heap tensors (tests, set-up, tools); a training step takes from an Arena instead.
  static Tensor empty(const Shape& shape, DType dtype = DType::f32);
  static Tensor zeros(const Shape& shape, DType dtype = DType::f32);
  /// Heap tensor with a copy of `values`; throws Error where the counts differ.
  template <class T>
  static Tensor of(const Shape& shape, std::span<const T> values);
  template <class T>
  static Tensor of(const Shape& shape, std::initializer_list<T> values) {
    return of<T>(shape, std::span<const T>(values.begin(), values.size()));
  }
  /// Borrows `data`, which must outlive the handle and every view of it.
  static Tensor borrow(void* data, const Shape& shape, DType dtype, Device device = Device::cpu);

  /// As borrow(); `owner` lives as long as the handle and every view of it.
  static Tensor own(std::shared_ptr<void> owner, void* data, const Shape& shape, DType dtype, Device device);

  bool defined() const { return data_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  Index size(int dim) const { return shape_[dim < 0 ? dim + rank() : dim]; }
  Index stride(int dim) const { return strides_[dim < 0 ? dim + rank() : dim]; }  ///< in elements
  Index numel() const { return numel_; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  std::size_t bytes() const { return static_cast<std::size_t>(numel_) * size_of(dtype_); }
  bool contiguous() const;

  /// First element; throws Error unless T is the dtype.
  template <class T>
  T* data() const {
    if (dtype_of<T> != dtype_) [[unlikely]]  // no call otherwise: loops ask for rows
      fail("tensor: asked for {} elements of a tensor of {}", name_of(dtype_of<T>), name_of(dtype_));
    return static_cast<T*>(data_);
  }
  template <class T>
  std::span<T> span() const {
    require(contiguous(), "tensor: a span needs contiguous elements, this view {} has gaps", shape_);
    return {data<T>(), static_cast<std::size_t>(numel_)};
  }
  void* raw() const { return data_; }

  // Views share memory (and owner) with this tensor; they carry no gradient slot.
  Tensor reshape(const Shape& shape) const;  ///< contiguous only, same numel
  Tensor slice(int dim, Index begin, Index end) const;
  Tensor rows(Index begin, Index end) const { return slice(0, begin, end); }
  Tensor transpose(int first, int second) const;

  void fill(double value) const;  ///< contiguous; converts to any dtype, on a device to f32, f64 and i32
  void zero() const;              ///< contiguous
  /// Same dtype and numel, both contiguous, on any devices; complete on return where these differ.
  void copy_from(const Tensor& source) const;
  /// The same, queued where a device takes part: host memory must stay as it is until that was waited for.
  void queue_copy_from(const Tensor& source) const;
  Tensor clone() const;          ///< contiguous heap copy; a strided view's, if in host memory
  Tensor to(DType dtype) const;  ///< contiguous heap copy, converted; from host memory

  GradientSlot* slot = nullptr;  ///< where the gradient goes; null: none is wanted

 private:
  void* data_ = nullptr;
  std::shared_ptr<void> owner_;
  Shape shape_;
  Shape strides_;
  Index numel_ = 0;
  DType dtype_ = DType::f32;
  Device device_ = Device::cpu;
};

template <class T>
Tensor Tensor::of(const Shape& shape, std::span<const T> values) {
  Tensor result = empty(shape, dtype_of<T>);
  require(static_cast<Index>(values.size()) == result.numel(), "tensor: {} values do not fill shape {}",
          values.size(), shape);
  std::copy(values.begin(), values.end(), result.data<T>());
  return result;
}

}  // namespace conclave
