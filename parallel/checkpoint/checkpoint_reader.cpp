// Opening checks everything except the tensors' values, so that cheap-to-find problems are found before
// training starts. Values are verified when they are read.
#include "parallel/checkpoint/checkpoint_reader.h"

#include <fcntl.h>

#include <algorithm>
#include <exception>

#include "core/durable_file.h"

namespace conclave {
namespace {

herr_t collect_dataset(hid_t, const char* name, const H5O_info_t* object, void* into) {
  if (object->type == H5O_TYPE_DATASET) static_cast<std::vector<std::string>*>(into)->emplace_back(name);
  return 0;
}

Hdf5Id open_dataset(hid_t file, const std::string& name) {
  return {H5Dopen2(file, name.c_str(), H5P_DEFAULT), H5Dclose, "cannot be opened"};
}

}  // namespace

CheckpointReader::CheckpointReader(std::string path, Communicator* group)
    : path_(std::move(path)), group_(group) {
  const Hdf5Lock lock;
  try {
    open();
  } catch (const Error& error) {
    file_.reset();
    const bool named = std::string_view(error.what()).starts_with(path_);
    throw Error(named ? fmt::format("checkpoint {}", error.what())
                      : fmt::format("checkpoint {}: {}", path_, error.what()));
  }
}

CheckpointReader::~CheckpointReader() {
  const Hdf5Lock lock;
  file_.reset();
}

void CheckpointReader::open() {
  const std::uint64_t file_bytes = FileDescriptor(path_, O_RDONLY).size();
  file_.emplace(open_hdf5(path_));
  require(H5Aexists(*file_, "format") > 0 && read_text_attribute(*file_, "format") == "conclave-checkpoint",
          "is an HDF5 file, but not a checkpoint of Conclave");
  const std::int64_t schema = read_integer_attribute(*file_, "schema_version");
  require(schema == kCheckpointSchema,
          "has schema version {}, this program reads version {}; use the version of Conclave that wrote it",
          schema, kCheckpointSchema);
  state_.step = read_integer_attribute(*file_, "step");
  require(state_.step >= 0, "says that it is of step {}", state_.step);
  state_.recipe = read_state("state/recipe", file_bytes);
  state_.metadata = read_state("state/metadata", file_bytes);
  state_.tokenizer = read_state("state/tokenizer", file_bytes);

  std::vector<std::string> names;
  check_hdf5(H5Ovisit2(*file_, H5_INDEX_NAME, H5_ITER_NATIVE, collect_dataset, &names, H5O_INFO_BASIC),
             "its tensors cannot be listed");
  for (const std::string& name : names) {
    if (name.starts_with("state/")) continue;
    try {
      tensors_.emplace(name, describe(name, file_bytes));
    } catch (const Error& error) {
      fail("tensor {}: {}", name, error.what());
    }
  }
}

CheckpointReader::Info CheckpointReader::describe(const std::string& name, std::uint64_t file_bytes) const {
  const Hdf5Id dataset = open_dataset(*file_, name);
  const Hdf5Id space(H5Dget_space(dataset), H5Sclose, "has no shape");
  const int rank = H5Sget_simple_extent_ndims(space);
  require(rank >= 0 && rank <= Shape::kMaxRank, "has {} dimensions, at most {} are supported", rank,
          Shape::kMaxRank);
  std::array<hsize_t, Shape::kMaxRank> extents{};
  check_hdf5(H5Sget_simple_extent_dims(space, extents.data(), nullptr), "has no shape");
  std::array<Index, Shape::kMaxRank> signed_extents{};
  std::copy(extents.begin(), extents.end(), signed_extents.begin());

  Info info;
  info.shape = Shape(std::span<const Index>(signed_extents.data(), static_cast<std::size_t>(rank)));
  info.dtype = dtype_from(read_text_attribute(dataset, "dtype"));
  const Hdf5Id type(H5Dget_type(dataset), H5Tclose, "has no type");
  require(H5Tequal(type, hdf5_type(info.dtype)) > 0,
          "its attribute says {}, but its elements are stored otherwise", name_of(info.dtype));
  info.checksums = read_checksums(dataset);
  const auto checksums = static_cast<Index>(info.checksums.size());
  require(checksums == 1 || (rank > 0 && checksums == info.shape[0]), "{} checksums do not fit shape {}",
          checksums, info.shape);

  const std::uint64_t count = static_cast<std::uint64_t>(info.shape.numel());
  require(count <= file_bytes, "shape {} is more than the file can hold", info.shape);
  const std::uint64_t bytes = count * size_of(info.dtype);
  const haddr_t offset = bytes == 0 ? 0 : H5Dget_offset(dataset);
  require(bytes == 0 || (offset != HADDR_UNDEF && bytes <= file_bytes && offset <= file_bytes - bytes),
          "is not whole: the file is truncated");
  return info;
}

std::string CheckpointReader::read_state(const std::string& name, std::uint64_t file_bytes) const {
  try {
    const Hdf5Id dataset = open_dataset(*file_, name);
    const Hdf5Id type(H5Dget_type(dataset), H5Tclose, "has no type");
    const bool text = H5Tget_class(type) == H5T_STRING;
    // Other types may hold pointers, which HDF5 fills in as it reads.
    require(text ? H5Tis_variable_str(type) == 0 : H5Tequal(type, H5T_STD_U8LE) > 0,
            "is neither a text of fixed length nor bytes");
    const Hdf5Id space(H5Dget_space(dataset), H5Sclose, "has no shape");
    const hssize_t elements = H5Sget_simple_extent_npoints(space);
    const std::uint64_t room = std::min<std::uint64_t>(H5Dget_storage_size(dataset), file_bytes);
    require(elements >= 0 && static_cast<std::uint64_t>(elements) <= room / H5Tget_size(type),
            "is not whole");
    std::string value(static_cast<std::size_t>(elements) * H5Tget_size(type), '\0');
    if (!value.empty())
      check_hdf5(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, value.data()), "cannot be read");
    if (text) value.resize(std::min(value.find('\0'), value.size()));
    const auto checksums = read_checksums(dataset);
    require(checksums.size() == 1 && checksums[0] == xxh3_128(value.data(), value.size()),
            "checksum mismatch: the file is damaged");
    return value;
  } catch (const Error& error) {
    fail("{}: {}", name, error.what());
  }
}

std::vector<std::string> CheckpointReader::names() const {
  std::vector<std::string> result;
  for (const auto& [name, info] : tensors_) result.push_back(name);
  return result;
}

const CheckpointReader::Info& CheckpointReader::info(const std::string& name) const {
  const auto found = tensors_.find(name);
  require(found != tensors_.end(), "checkpoint {}: tensor {} is missing", path_, name);
  return found->second;
}

void CheckpointReader::check(const TensorEntry& entry) const {
  check_entry(entry);
  const Info& stored = info(entry.name);
  require(stored.shape == entry.global_shape,
          "checkpoint {}: tensor {}: shape {} in the file, {} in the model", path_, entry.name, stored.shape,
          entry.global_shape);
  require(stored.dtype == entry.values.dtype(), "checkpoint {}: tensor {}: {} in the file, {} in the model",
          path_, entry.name, name_of(stored.dtype), name_of(entry.values.dtype()));
}

void CheckpointReader::read(const TensorEntry& entry) const {
  check(entry);
  const Info& stored = info(entry.name);
  const bool whole = entry.values.numel() == stored.shape.numel();
  if (stored.checksums.size() == 1 && !whole) {  // the checksum covers more rows than this rank's
    entry.values.copy_from(read(entry.name).rows(entry.first_row, entry.first_row + entry.values.size(0)));
    return;
  }
  const bool direct = entry.values.device() == Device::cpu;
  const Tensor into = direct ? entry.values : Tensor::empty(entry.values.shape(), entry.values.dtype());
  const Index rows = into.rank() == 0 ? 1 : into.size(0);
  {
    const Hdf5Lock lock;
    try {
      const Hdf5Id dataset = open_dataset(*file_, entry.name);
      read_rows(dataset, stored.shape, stored.dtype, entry.first_row, rows, into.raw());
    } catch (const Error& error) {
      fail("checkpoint {}: tensor {}: {}", path_, entry.name, error.what());
    }
  }
  const bool per_row = stored.checksums.size() != 1 || stored.shape.numel() == 0;
  const Index pieces = per_row ? rows : 1;
  const std::size_t piece = pieces == 0 ? 0 : into.bytes() / static_cast<std::size_t>(pieces);
  for (Index i = 0; i < pieces && stored.shape.numel() > 0; ++i) {
    const auto* bytes = static_cast<const std::byte*>(into.raw()) + static_cast<std::size_t>(i) * piece;
    if (xxh3_128(bytes, piece) ==
        stored.checksums[static_cast<std::size_t>(per_row ? entry.first_row + i : 0)])
      continue;
    const std::string where = per_row ? fmt::format(" in row {}", entry.first_row + i) : "";
    fail("checkpoint {}: tensor {}: checksum mismatch{}: the file is damaged", path_, entry.name, where);
  }
  if (!direct) entry.values.copy_from(into);
}

Tensor CheckpointReader::read(const std::string& name) const {
  const Info& stored = info(name);
  Tensor values = Tensor::empty(stored.shape, stored.dtype);
  read(TensorEntry{name, values, stored.shape, 0, false});
  return values;
}

void CheckpointReader::throw_together(const std::string& error) const {
  if (group_ != nullptr && group_->max(Index{!error.empty()}) != 0) {
    const auto errors = group_->all_gather(error);
    const auto first =
        std::find_if(errors.begin(), errors.end(), [](const auto& text) { return !text.empty(); });
    throw Error(error.empty() ? fmt::format("{} (on rank {})", *first, first - errors.begin()) : error);
  }
  if (!error.empty()) throw Error(error);
}

void CheckpointReader::expect(std::span<const TensorEntry> entries) const {
  std::string error;
  try {
    for (const TensorEntry& entry : entries) check(entry);
  } catch (const std::exception& failure) {
    error = failure.what();
  }
  throw_together(error);
}

void CheckpointReader::load(std::span<const TensorEntry> entries) const {
  expect(entries);  // cheap checks before any reading
  std::vector<Tensor> staged;
  std::string error;
  try {
    for (const TensorEntry& entry : entries) {
      TensorEntry copy = entry;
      copy.values = Tensor::empty(entry.values.shape(), entry.values.dtype());
      read(copy);
      staged.push_back(copy.values);
    }
  } catch (const std::exception& failure) {
    error = failure.what();
  }
  throw_together(error);
  for (std::size_t i = 0; i < entries.size(); ++i) entries[i].values.copy_from(staged[i]);
}

void CheckpointReader::verify(std::string_view prefix) const {
  for (const auto& [name, stored] : tensors_)
    if (name.starts_with(prefix)) read(name);
}

}  // namespace conclave
