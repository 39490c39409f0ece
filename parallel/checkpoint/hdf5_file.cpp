// Each helper opens the handles it needs and closes them in reverse order.
#include "parallel/checkpoint/hdf5_file.h"

#include <algorithm>
#include <utility>

namespace conclave {
namespace {

// One HDF5 call moves at most this much: MPI-IO counts in ints.
constexpr Index kTransferBytes = Index{1} << 30;

std::recursive_mutex hdf5_mutex;

herr_t collect_reason(unsigned depth, const H5E_error2_t* error, void* into) {
  auto& text = *static_cast<std::string*>(into);
  if (depth < 3 && error->desc != nullptr && *error->desc != '\0')
    text += (text.empty() ? "" : "; ") + std::string(error->desc);
  return 0;
}

void write_attribute(hid_t object, const char* name, hid_t type, hid_t space, const void* value) {
  const std::string doing = fmt::format("hdf5 attribute {}", name);
  const Hdf5Id attribute(H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose, doing);
  check_hdf5(H5Awrite(attribute, type, value), doing);
}

// Splits the box at `start` of size `count` into boxes of at most kTransferBytes, and calls
// move(memory_space, file_space, offset in bytes) for each, in order.
template <class Move>
void for_boxes(const Shape& shape, Shape start, Shape count, std::size_t element, Index& offset,
               Move&& move) {
  const Index elements = count.numel();
  int dim = 0;
  while (dim < count.rank() && count[dim] <= 1) ++dim;
  if (elements * static_cast<Index>(element) > kTransferBytes && dim < count.rank()) {
    Shape first = count, second = count;
    first[dim] = count[dim] / 2;
    second[dim] = count[dim] - first[dim];
    for_boxes(shape, start, first, element, offset, move);
    start[dim] += first[dim];
    for_boxes(shape, start, second, element, offset, move);
    return;
  }
  const Hdf5Id memory = hdf5_space(std::array{elements}), file = hdf5_space(shape.extents());
  if (shape.rank() > 0) {
    std::array<hsize_t, Shape::kMaxRank> starts{}, counts{};
    std::copy(start.extents().begin(), start.extents().end(), starts.begin());
    std::copy(count.extents().begin(), count.extents().end(), counts.begin());
    check_hdf5(H5Sselect_hyperslab(file, H5S_SELECT_SET, starts.data(), nullptr, counts.data(), nullptr),
               "hdf5 selection");
  }
  move(memory, file, offset);
  offset += elements * static_cast<Index>(element);
}

template <class Move>
void for_rows(const Shape& shape, DType dtype, Index first_row, Index rows, Move&& move) {
  Shape start = shape, count = shape;
  for (int dim = 0; dim < shape.rank(); ++dim) start[dim] = 0;
  if (shape.rank() > 0) {
    start[0] = first_row;
    count[0] = rows;
  }
  Index offset = 0;
  if (count.numel() > 0) for_boxes(shape, start, count, size_of(dtype), offset, move);
}

}  // namespace

Hdf5Lock::Hdf5Lock() : guard_(hdf5_mutex) { H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); }

void check_hdf5(herr_t result, const std::string& doing) {
  if (result >= 0) [[likely]]
    return;
  std::string reason;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, collect_reason, &reason);
  H5Eclear2(H5E_DEFAULT);
  fail("{}: {}", doing, reason.empty() ? "HDF5 gives no reason" : reason);
}

Hdf5Id::Hdf5Id(hid_t id, Close close, const std::string& doing) : id_(id), close_(close) {
  if (id < 0) check_hdf5(-1, doing);
}

Hdf5Id::~Hdf5Id() {
  if (id_ >= 0 && close_(id_) < 0) H5Eclear2(H5E_DEFAULT);
}

void Hdf5Id::close(const std::string& doing) {
  if (id_ >= 0) check_hdf5(close_(std::exchange(id_, H5I_INVALID_HID)), doing);
}

hid_t hdf5_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return H5T_IEEE_F32LE;
    case DType::f64:
      return H5T_IEEE_F64LE;
    case DType::bf16:
      return H5T_STD_U16LE;
    case DType::i64:
      return H5T_STD_I64LE;
    case DType::i32:
      return H5T_STD_I32LE;
    case DType::i8:
      return H5T_STD_I8LE;
    case DType::u8:
      return H5T_STD_U8LE;
  }
  fail("hdf5: no type for dtype number {}", static_cast<int>(dtype));
}

Hdf5Id hdf5_string(std::size_t length) {
  Hdf5Id type(H5Tcopy(H5T_C_S1), H5Tclose, "hdf5 string type");
  check_hdf5(H5Tset_size(type, std::max<std::size_t>(length, 1)), "hdf5 string type");
  check_hdf5(H5Tset_strpad(type, H5T_STR_NULLPAD), "hdf5 string type");
  check_hdf5(H5Tset_cset(type, H5T_CSET_UTF8), "hdf5 string type");
  return type;
}

Hdf5Id hdf5_space(std::span<const Index> extents) {
  if (extents.empty()) return {H5Screate(H5S_SCALAR), H5Sclose, "hdf5 scalar"};
  std::array<hsize_t, Shape::kMaxRank> dims{};
  std::copy(extents.begin(), extents.end(), dims.begin());
  return {H5Screate_simple(static_cast<int>(extents.size()), dims.data(), nullptr), H5Sclose,
          "hdf5 dataspace"};
}

Hdf5Id open_hdf5(const std::string& path, bool writable) {
  const std::string doing = path + ": cannot be opened, or is not a whole HDF5 file";
  const Hdf5Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, doing);
  check_hdf5(H5Pset_file_locking(access, false, true), doing);
  if (writable) check_hdf5(H5Pset_sieve_buf_size(access, 0), doing);
  return {H5Fopen(path.c_str(), writable ? H5F_ACC_RDWR : H5F_ACC_RDONLY, access), H5Fclose, doing};
}

void write_attribute(hid_t object, const char* name, const std::string& text) {
  write_attribute(object, name, hdf5_string(text.size()), hdf5_space({}), text.c_str());
}

void write_attribute(hid_t object, const char* name, std::int64_t value) {
  write_attribute(object, name, H5T_STD_I64LE, hdf5_space({}), &value);
}

std::string read_text_attribute(hid_t object, const char* name) {
  const std::string doing = fmt::format("attribute {} cannot be read", name);
  const Hdf5Id attribute(H5Aopen(object, name, H5P_DEFAULT), H5Aclose, doing);
  const Hdf5Id type(H5Aget_type(attribute), H5Tclose, doing);
  require(H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 && H5Tget_size(type) <= 4096,
          "{}: it is not a short string", doing);
  // HDF5 writes all elements, however many the file says there are.
  const Hdf5Id space(H5Aget_space(attribute), H5Sclose, doing);
  require(H5Sget_simple_extent_npoints(space) == 1, "{}: it is not one text", doing);
  std::string text(H5Tget_size(type), '\0');
  check_hdf5(H5Aread(attribute, type, text.data()), doing);
  return text.substr(0, text.find('\0'));
}

std::int64_t read_integer_attribute(hid_t object, const char* name) {
  const std::string doing = fmt::format("attribute {} cannot be read", name);
  const Hdf5Id attribute(H5Aopen(object, name, H5P_DEFAULT), H5Aclose, doing);
  const Hdf5Id space(H5Aget_space(attribute), H5Sclose, doing);
  require(H5Sget_simple_extent_npoints(space) == 1, "{}: it is not one number", doing);
  std::int64_t value = 0;
  check_hdf5(H5Aread(attribute, H5T_NATIVE_INT64, &value), doing);
  return value;
}

void write_checksums(hid_t object, std::span<const Xxh3Digest> checksums) {
  const std::array<Index, 2> extents{static_cast<Index>(checksums.size()), Index{sizeof(Xxh3Digest)}};
  write_attribute(object, "xxh3_128", H5T_STD_U8LE, hdf5_space(extents), checksums.data());
}

std::vector<Xxh3Digest> read_checksums(hid_t object) {
  const std::string doing = "attribute xxh3_128 cannot be read";
  const Hdf5Id attribute(H5Aopen(object, "xxh3_128", H5P_DEFAULT), H5Aclose, doing);
  const Hdf5Id space(H5Aget_space(attribute), H5Sclose, doing);
  std::array<hsize_t, 2> extents{};
  require(H5Sget_simple_extent_ndims(space) == 2 &&
              H5Sget_simple_extent_dims(space, extents.data(), nullptr) == 2 &&
              extents[1] == sizeof(Xxh3Digest) &&
              extents[0] <= H5Aget_storage_size(attribute) / sizeof(Xxh3Digest),  // a product may wrap to 0
          "{}: it is not [checksums, {}]", doing, sizeof(Xxh3Digest));
  std::vector<Xxh3Digest> checksums(extents[0]);
  check_hdf5(H5Aread(attribute, H5T_STD_U8LE, checksums.data()), doing);
  return checksums;
}

void write_rows(hid_t dataset, const Shape& shape, DType dtype, Index first_row, Index rows,
                const void* values, hid_t transfer) {
  for_rows(shape, dtype, first_row, rows, [&](hid_t memory, hid_t file, Index offset) {
    check_hdf5(H5Dwrite(dataset, hdf5_type(dtype), memory, file, transfer,
                        static_cast<const char*>(values) + offset),
               "cannot be written");
  });
}

void read_rows(hid_t dataset, const Shape& shape, DType dtype, Index first_row, Index rows, void* values) {
  for_rows(shape, dtype, first_row, rows, [&](hid_t memory, hid_t file, Index offset) {
    check_hdf5(
        H5Dread(dataset, hdf5_type(dtype), memory, file, H5P_DEFAULT, static_cast<char*>(values) + offset),
        "cannot be read");
  });
}

}  // namespace conclave
