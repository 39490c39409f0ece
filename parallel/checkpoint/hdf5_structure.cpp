// The layout is created in an image in memory (see hdf5_image.h for the reason) and then copied to disk.
#include "parallel/checkpoint/hdf5_structure.h"

#include <fcntl.h>

#include <algorithm>

#include "core/durable_file.h"
#include "parallel/checkpoint/hdf5_image.h"

namespace conclave {
namespace {

// Tensors of at least this size begin at a page boundary, so that ranks on different machines share fewer
// pages.
constexpr hsize_t kAlignFrom = 64 << 10, kAlignTo = 4 << 10;
constexpr hsize_t kMetadataBlock = 64 << 10;

Hdf5Id without_times(hid_t property_class) {
  Hdf5Id properties(H5Pcreate(property_class), H5Pclose, "hdf5 properties");
  check_hdf5(H5Pset_obj_track_times(properties, false), "hdf5 properties");
  return properties;
}

Hdf5Id create(Hdf5Image& image) {
  const std::string doing = "hdf5 layout";
  const Hdf5Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, doing);
  check_hdf5(H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18), doing);
  check_hdf5(H5Pset_alignment(access, kAlignFrom, kAlignTo), doing);
  check_hdf5(H5Pset_meta_block_size(access, kMetadataBlock), doing);
  image.receive_from(access);
  return {H5Fcreate("layout", H5F_ACC_TRUNC, without_times(H5P_FILE_CREATE), access), H5Fclose, doing};
}

}  // namespace

Hdf5Id Hdf5Structure::dataset(const std::string& name, hid_t type, hid_t space) {
  for (std::size_t slash = name.find('/'); slash != std::string::npos; slash = name.find('/', slash + 1)) {
    const std::string group = name.substr(0, slash);
    if (!groups_.insert(group).second) continue;
    const Hdf5Id made(
        H5Gcreate2(file_, group.c_str(), H5P_DEFAULT, without_times(H5P_GROUP_CREATE), H5P_DEFAULT), H5Gclose,
        "hdf5 group " + group);
  }
  const std::string doing = "hdf5 dataset " + name;
  const Hdf5Id creation = without_times(H5P_DATASET_CREATE);
  check_hdf5(H5Pset_layout(creation, H5D_CONTIGUOUS), doing);
  check_hdf5(H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY), doing);
  check_hdf5(H5Pset_fill_time(creation, H5D_FILL_TIME_NEVER), doing);
  return {H5Dcreate2(file_, name.c_str(), type, space, H5P_DEFAULT, creation, H5P_DEFAULT), H5Dclose, doing};
}

Hdf5Id Hdf5Structure::tensor(const std::string& name, const Shape& shape, DType dtype,
                             std::span<const Xxh3Digest> checksums) {
  Hdf5Id made = dataset(name, hdf5_type(dtype), hdf5_space(shape.extents()));
  write_attribute(made, "dtype", std::string(name_of(dtype)));
  write_checksums(made, checksums);
  return made;
}

void Hdf5Structure::text(const std::string& name, const std::string& text) {
  const Hdf5Id type = hdf5_string(text.size());
  const Hdf5Id made = dataset(name, type, hdf5_space({}));
  check_hdf5(H5Dwrite(made, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text.c_str()), name);
  const Xxh3Digest checksum = xxh3_128(text.data(), text.size());
  write_checksums(made, {&checksum, 1});
}

void Hdf5Structure::bytes(const std::string& name, const std::string& bytes) {
  const Shape shape{static_cast<Index>(bytes.size())};
  const Xxh3Digest checksum = xxh3_128(bytes.data(), bytes.size());
  const Hdf5Id made = tensor(name, shape, DType::u8, {&checksum, 1});
  write_rows(made, shape, DType::u8, 0, shape[0], bytes.data());
}

void Hdf5Structure::texts(const std::string& name, const std::vector<std::string>& texts) {
  std::size_t longest = 1;
  for (const std::string& text : texts) longest = std::max(longest, text.size());
  std::string padded;
  for (const std::string& text : texts) padded.append(text).append(longest - text.size(), '\0');
  const Hdf5Id type = hdf5_string(longest);
  const Index count = std::ssize(texts);
  const Hdf5Id made = dataset(name, type, hdf5_space({&count, 1}));
  check_hdf5(H5Dwrite(made, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, padded.data()), name);
}

void Hdf5Structure::floats(const std::string& name, const std::vector<float>& values) {
  const Shape shape{std::ssize(values)};
  const Xxh3Digest checksum = xxh3_128(values.data(), values.size() * sizeof(float));
  const Hdf5Id made = tensor(name, shape, DType::f32, {&checksum, 1});
  write_rows(made, shape, DType::f32, 0, shape[0], values.data());
}

void lay_out_hdf5(const std::string& path, const std::function<void(Hdf5Structure&)>& describe) {
  Hdf5Image image;
  {
    Hdf5Id file = create(image);
    Hdf5Structure structure(file);
    describe(structure);
    file.close("hdf5 layout");
  }
  FileDescriptor disk(path, O_WRONLY | O_CREAT | O_TRUNC);
  image.copy_to(disk);
}

}  // namespace conclave
