// write() runs the phases of a save; after each phase all ranks agree whether it succeeded on all of them.
#include "parallel/checkpoint/checkpoint_writer.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <exception>
#include <filesystem>
#include <random>
#include <thread>
#include <vector>

#include "core/clock.h"
#include "parallel/checkpoint/hdf5_structure.h"

namespace conclave {
namespace {

// Well below the time of a write, and well above the cost of a test for completion.
constexpr auto kPollInterval = std::chrono::milliseconds(1);

// Bytes that are hashed or written before passed() may give back their memory.
constexpr std::size_t kPiece = std::size_t{16} << 20;

MPI_Comm mpi_handle(Communicator& group) {
  const auto* mpi = dynamic_cast<const MpiCommunicator*>(&group.host());
  require(mpi != nullptr, "checkpoint writer: parallel HDF5 needs the MPI communicator of the ranks");
  return mpi->handle();
}

// Returns the message of what `body` throws, or "".
template <class Body>
std::string error_of(Body&& body) {
  try {
    body();
    return {};
  } catch (const std::exception& error) {
    return *error.what() ? error.what() : "failed";
  }
}

// 16 random characters, unique to a writer and the same on all its ranks.
std::string new_mark(Communicator& group) {
  std::random_device random;
  return group.broadcast(fmt::format("{:08x}{:08x}", random(), random()), 0);
}

Hdf5Id open_on_all_ranks(const std::string& path, MPI_Comm handle) {
  const std::string doing = path + ": cannot be opened through MPI-IO";
  const Hdf5Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, doing);
  check_hdf5(H5Pset_fapl_mpio(access, handle, MPI_INFO_NULL), doing);
  check_hdf5(H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18), doing);
  return {H5Fopen(path.c_str(), H5F_ACC_RDWR, access), H5Fclose, doing};
}

}  // namespace

CheckpointWriter::CheckpointWriter(std::string directory, Communicator& world, int keep, bool asynchronous,
                                   Report report, std::function<void()> passed)
    : directory_(std::move(directory)),
      group_(world.split(0)),
      mark_(new_mark(*group_)),
      handle_(mpi_handle(*group_)),
      keep_(keep),
      asynchronous_(asynchronous),
      report_(std::move(report)),
      passed_(std::move(passed)) {
  require(keep >= 0, "checkpoint writer: keep = {}; give how many checkpoints stay, or 0 for all", keep);
}

CheckpointWriter::~CheckpointWriter() {
  if (under_way_.valid()) under_way_.wait();
}

const std::optional<SaveOutcome>& CheckpointWriter::wait() {
  if (under_way_.valid()) last_ = under_way_.get();
  return last_;
}

std::size_t CheckpointWriter::prepare(std::span<const TensorEntry> entries) {
  prepare(entries, 0);
  return staging_.defined() ? staging_.bytes() : 0;
}

// The device that has any of this rank's parts, or the CPU.
Device CheckpointWriter::device_of(std::span<const TensorEntry> entries) const {
  const auto on_device = std::ranges::find_if(layout_.parts, [&](const CheckpointLayout::Part& part) {
    return entries[part.tensor].values.device() != Device::cpu;
  });
  return on_device == layout_.parts.end() ? Device::cpu : entries[on_device->tensor].values.device();
}

// Nothing changes what is in host memory while save() waits.
bool CheckpointWriter::stages(std::span<const TensorEntry> entries) const {
  return asynchronous_ || device_of(entries) != Device::cpu ||
         std::ranges::any_of(layout_.parts, [&](const CheckpointLayout::Part& part) {
           return !entries[part.tensor].values.contiguous();
         });
}

void CheckpointWriter::prepare(std::span<const TensorEntry> entries, std::int64_t step) {
  wait();
  const std::uint64_t signature = CheckpointLayout::signature(entries);
  std::array<Index, 3> facts{signature_ != signature, step, -step};
  group_->all_reduce(Tensor::borrow(facts.data(), {3}, DType::i64), Reduction::max);
  require(facts[1] == -facts[2] && facts[1] >= 0,
          "checkpoint: ranks are at steps from {} to {}; save at the same step, not below 0, everywhere",
          -facts[2], facts[1]);
  if (facts[0] != 0) {
    signature_.reset();
    layout_ = CheckpointLayout::agree(entries, *group_);
    signature_ = signature;
  }
  if (stages(entries) && (!staging_.defined() || staging_.bytes() < layout_.staging_bytes)) {
    staging_ = Tensor();  // frees the old buffer first
    staging_ = Tensor::zeros_beside(
        device_of(entries), {static_cast<Index>(std::max<std::size_t>(layout_.staging_bytes, 1))}, DType::u8);
  }
  checksums_.resize(static_cast<std::size_t>(layout_.checksums));
}

void CheckpointWriter::save(std::span<const TensorEntry> entries, const CheckpointState& state) {
  prepare(entries, state.step);
  const bool copies = stages(entries);
  sources_.clear();
  for (const CheckpointLayout::Part& part : layout_.parts) {
    const Tensor& values = entries[part.tensor].values;
    const Tensor source = copies
                              ? Tensor::borrow(static_cast<std::byte*>(staging_.raw()) + part.staging_offset,
                                               values.shape(), values.dtype())
                              : values;
    if (copies) source.queue_copy_from(values);
    sources_.push_back(static_cast<const std::byte*>(source.raw()));
  }
  synchronize(device_of(entries));  // once for all copies
  state_ = state;
  under_way_ =
      std::async(asynchronous_ ? std::launch::async : std::launch::deferred, [this] { return write(); });
  if (!asynchronous_) wait();
}

SaveOutcome CheckpointWriter::write() {
  const auto start = Clock::now();
  SaveOutcome outcome;
  outcome.step = state_.step;
  outcome.path = checkpoint_path(directory_, state_.step);
  outcome.bytes = layout_.total_bytes;
  try {
    write_or_explain(outcome);
  } catch (const std::exception& error) {  // an MPI failure: the ranks cannot agree on anything after it
    outcome.message = error.what();
  }
  outcome.saved = outcome.message.empty();
  outcome.seconds = seconds_since(start);
  if (report_ && group_->rank() == 0) report_(outcome);
  return outcome;
}

void CheckpointWriter::write_or_explain(SaveOutcome& outcome) {
  const bool first = group_->rank() == 0;
  gather_checksums();
  std::optional<AtomicFile> file;  // on rank 0; removes the temporary file unless committed

  const std::string laying_out = error_of([&] {
    if (!first) return;
    create_durable_directories(directory_);
    remove_temporaries();
    file.emplace(outcome.path, temporary_of(outcome.path));
    lay_out(file->temporary());
  });
  if (!agreed(laying_out, outcome)) return;
  if (!agreed(write_parts(temporary_of(outcome.path)), outcome)) return;
  const std::string committing = error_of([&] {
    if (first) file->commit();
  });
  if (!agreed(committing, outcome)) return;
  if (first) retire_old();
}

template <class Work>
void CheckpointWriter::for_pieces(std::size_t p, const Work& work) const {
  const CheckpointLayout::Part& part = layout_.parts[p];
  const std::size_t row = part.bytes / static_cast<std::size_t>(part.rows);
  const auto most = static_cast<Index>(std::max<std::size_t>(kPiece / row, 1));
  for (Index first = 0; first < part.rows; first += most) {
    const Index rows = std::min(most, part.rows - first);
    work(
        first, rows,
        std::span(sources_[p] + static_cast<std::size_t>(first) * row, static_cast<std::size_t>(rows) * row));
    if (passed_) passed_();
  }
}

void CheckpointWriter::gather_checksums() {
  std::ranges::fill(checksums_, Xxh3Digest{});
  for (const auto& plan : layout_.tensors)
    if (plan.shape.numel() == 0)  // no rank writes an empty tensor; rank 0 contributes its checksum
      if (group_->rank() == 0)
        std::fill_n(checksums_.begin() + plan.first_checksum, plan.checksums, xxh3_128("", 0));
  for (std::size_t p = 0; p < layout_.parts.size(); ++p) {
    const CheckpointLayout::Part& part = layout_.parts[p];
    const auto& plan = layout_.tensors[part.tensor];
    if (plan.checksums == 1) {
      Xxh3 whole;
      for_pieces(p, [&](Index, Index, std::span<const std::byte> piece) {
        whole.add({reinterpret_cast<const char*>(piece.data()), piece.size()});
      });
      checksums_[static_cast<std::size_t>(plan.first_checksum)] = whole.digest();
    } else {
      for_pieces(p, [&](Index first, Index rows, std::span<const std::byte> piece) {
        const std::size_t bytes = piece.size() / static_cast<std::size_t>(rows);
        for (Index row = 0; row < rows; ++row)
          checksums_[static_cast<std::size_t>(plan.first_checksum + part.first_row + first + row)] =
              xxh3_128(piece.data() + static_cast<std::size_t>(row) * bytes, bytes);
      });
    }
  }
  const Index bytes = static_cast<Index>(checksums_.size() * sizeof(Xxh3Digest));
  reduce_politely(Tensor::borrow(checksums_.data(), {bytes}, DType::u8),
                  Reduction::sum);  // one writer per checksum
}

void CheckpointWriter::lay_out(const std::string& path) const {
  const Hdf5Lock lock;
  lay_out_hdf5(path, [&](Hdf5Structure& file) {
    file.attribute("format", "conclave-checkpoint");
    file.attribute("schema_version", kCheckpointSchema);
    file.attribute("step", state_.step);
    file.text("state/recipe", state_.recipe);
    file.text("state/metadata", state_.metadata);
    file.bytes("state/tokenizer", state_.tokenizer);
    for (const auto& plan : layout_.tensors)
      file.tensor(plan.name, plan.shape, plan.dtype,
                  std::span(checksums_)
                      .subspan(static_cast<std::size_t>(plan.first_checksum),
                               static_cast<std::size_t>(plan.checksums)));
  });
}

// Returns this rank's error. Every rank takes part in every agreement and in both collective calls.
std::string CheckpointWriter::write_parts(const std::string& path) {
  SaveOutcome ignored;
  std::optional<FileDescriptor> descriptor;  // kept open for fsync
  std::string error = error_of([&] { descriptor.emplace(path, O_WRONLY); });
  if (!error.empty()) error += " (all ranks must share the directory)";
  if (!agreed(error, ignored)) return error;

  std::optional<Hdf5Id> file;
  error = error_of([&] {
    const Hdf5Lock lock;
    file.emplace(open_on_all_ranks(path, handle_));
  });
  error = error_of([&] {
    require(error.empty(), "{}", error);
    for (std::size_t p = 0; p < layout_.parts.size(); ++p) {
      const Hdf5Lock lock;
      const CheckpointLayout::Part& part = layout_.parts[p];
      const auto& plan = layout_.tensors[part.tensor];
      const std::string doing = fmt::format("{}: tensor {}", path, plan.name);
      const Hdf5Id dataset(H5Dopen2(*file, plan.name.c_str(), H5P_DEFAULT), H5Dclose, doing);
      const std::string failed = error_of([&] {
        for_pieces(p, [&](Index first, Index rows, std::span<const std::byte> piece) {
          write_rows(dataset, plan.shape, plan.dtype, part.first_row + first, rows, piece.data());
        });
      });
      require(failed.empty(), "{}: {} (disk full, or a quota or limit on the size of files reached?)", doing,
              failed);
    }
  });
  agreed(error, ignored);  // lets ranks arrive at close() together, because close() waits without sleeping
  if (file) {
    const Hdf5Lock lock;
    const std::string closing = error_of([&] { file->close(path + ": cannot be closed"); });
    if (error.empty()) error = closing;
  }
  const std::string syncing = error_of([&] { descriptor->sync(); });
  return error.empty() ? syncing : error;
}

void CheckpointWriter::retire_old() const {
  const auto files = list_checkpoints(directory_);
  std::size_t excess =
      keep_ == 0 ? 0 : files.size() - std::min(files.size(), static_cast<std::size_t>(keep_));
  for (const CheckpointFile& file : files) {
    if (excess == 0) return;
    if (file.step == state_.step) continue;  // always keep the newly written file: it is known to be good
    std::error_code ignored;                 // removal is tried again at the next save
    std::filesystem::remove(file.path, ignored);
    --excess;
  }
}

void CheckpointWriter::remove_temporaries() const {
  for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
    const std::string name = entry.path().filename().string();
    std::error_code ignored;
    if (name.starts_with("step-") && name.find(".h5.") != std::string::npos && name.ends_with(".tmp"))
      std::filesystem::remove(entry.path(), ignored);
  }
}

bool CheckpointWriter::agreed(const std::string& error, SaveOutcome& outcome) {
  Index failed = !error.empty();
  reduce_politely(Tensor::borrow(&failed, {1}, DType::i64), Reduction::max);
  if (failed == 0) return true;
  const auto errors = group_->all_gather(error);
  const auto first =
      std::find_if(errors.begin(), errors.end(), [](const auto& text) { return !text.empty(); });
  outcome.message = fmt::format("checkpoint of step {} not saved: {} (on rank {})", outcome.step, *first,
                                first - errors.begin());
  return false;
}

void CheckpointWriter::reduce_politely(const Tensor& values, Reduction reduction) {
  Request request = group_->start_all_reduce(values, reduction);
  while (!request.test()) std::this_thread::sleep_for(kPollInterval);
}

}  // namespace conclave
