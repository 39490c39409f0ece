// A Tensor is a small handle, passed by value: a data pointer, a layout and, for trained tensors, the slot
// that receives the gradient. Copying a Tensor copies the handle. The memory belongs to an Arena, to a shared
// owner on the heap, or to the caller; operations on a handle allocate only where their comment says so.
#pragma once

#include <algorithm>
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

/// Defined by autograd. core only stores the pointer, so that both folders use one handle type.
struct GradientSlot;

/// Up to six extents, stored inline.
class Shape {
 public:
  static constexpr int kMaxRank = 6;

  Shape() = default;
  Shape(std::initializer_list<Index> extents);
  explicit Shape(std::span<const Index> extents);

  int rank() const { return rank_; }
  Index operator[](int dim) const { return extents_[static_cast<std::size_t>(dim)]; }
  Index& operator[](int dim) { return extents_[static_cast<std::size_t>(dim)]; }
  /// Product of the extents, 1 for rank 0. Throws Error if an extent is negative, or if the product of those
  /// above 0 overflows 63 bits, because then there are no strides.
  Index numel() const;
  std::span<const Index> extents() const { return {extents_.data(), static_cast<std::size_t>(rank_)}; }
  std::string to_string() const;  ///< "[64, 256]"
  bool operator==(const Shape& other) const;

 private:
  std::array<Index, kMaxRank> extents_{};
  int rank_ = 0;
};

}  // namespace conclave

/// Formats lazily, so that a check that succeeds does not build text of its shapes. Without fmt::format_to(),
/// which would compile most of fmt anew in every file that formats a shape.
template <>
struct fmt::formatter<conclave::Shape> {
  constexpr auto parse(fmt::format_parse_context& context) { return context.begin(); }
  template <class Context>
  auto format(const conclave::Shape& shape, Context& context) const {
    const std::string text = shape.to_string();
    return std::copy(text.begin(), text.end(), context.out());
  }
};

namespace conclave {

/// Alignment in bytes of a tensor's own memory on the host: one cache line, and the widest vector register.
inline constexpr std::size_t kAlignment = 64;

class Tensor {
 public:
  Tensor() = default;

  /// Owning heap tensors, for tests, set-up and tools; a training step allocates from an Arena instead.
  static Tensor empty(const Shape& shape, DType dtype = DType::f32);
  static Tensor zeros(const Shape& shape, DType dtype = DType::f32);
  /// Like zeros(), in host memory to which and from which `device` copies: pinned, if that is a GPU and the
  /// system pins that much.
  static Tensor zeros_beside(Device device, const Shape& shape, DType dtype = DType::f32);
  /// Heap tensor with a copy of `values`; throws Error where the counts differ.
  template <class T>
  static Tensor of(const Shape& shape, std::span<const T> values);
  template <class T>
  static Tensor of(const Shape& shape, std::initializer_list<T> values) {
    return of<T>(shape, std::span<const T>(values.begin(), values.size()));
  }
  /// Borrows `data`, which must outlive the handle and every view of it.
  static Tensor borrow(void* data, const Shape& shape, DType dtype, Device device = Device::cpu);

  /// Like borrow(), but `owner` lives as long as the handle and every view of it.
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
    if (dtype_of<T> != dtype_) [[unlikely]]  // inlined test: loops call this for every row
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

  void fill(double value) const;  ///< contiguous only; any dtype on the CPU; f32, f64 and i32 on a device
  void zero() const;              ///< contiguous only
  /// Both are contiguous, of one dtype and numel, on any devices. Complete on return, except between two
  /// tensors on a device: that copy is queued.
  void copy_from(const Tensor& source) const;
  /// Like copy_from(), but queued if a device takes part: host memory must then stay unchanged until the
  /// device has been waited for.
  void queue_copy_from(const Tensor& source) const;
  Tensor clone() const;          ///< contiguous copy on the heap; a strided view must be in host memory
  Tensor to(DType dtype) const;  ///< contiguous converted copy on the heap; this must be in host memory

  GradientSlot* slot = nullptr;  ///< receives the gradient; null: no gradient is wanted

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
