// Each operation checks the arguments, handles a group of one rank by a copy, calls MPI, and checks the
// result.
#include "parallel/mpi_communicator.h"

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>

#include "core/timeline.h"
#include "parallel/communicator_arguments.h"

namespace conclave {
namespace {

constexpr int kExchangeTag = 1;  // one tag is enough: messages between two ranks arrive in order

void check(int code, const char* operation) {
  if (code == MPI_SUCCESS) [[likely]]
    return;
  char text[MPI_MAX_ERROR_STRING] = "unknown error";
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail("{}: MPI says: {}", operation, text);
}

bool mpi_is_running() {
  int initialized = 0, finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  return initialized && !finalized;
}

MPI_Datatype type_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return MPI_FLOAT;
    case DType::f64:
      return MPI_DOUBLE;
    case DType::bf16:
      return MPI_UINT16_T;  // for moving only, never for reductions
    case DType::i64:
      return MPI_INT64_T;
    case DType::i32:
      return MPI_INT32_T;
    case DType::i8:
      return MPI_INT8_T;
    case DType::u8:
      return MPI_UINT8_T;
  }
  fail("mpi: no MPI type for dtype number {}", static_cast<int>(dtype));
}

MPI_Op op_of(Reduction reduction) {
  return reduction == Reduction::sum ? MPI_SUM : reduction == Reduction::max ? MPI_MAX : MPI_MIN;
}

void check_tensor(const Tensor& tensor, const char* operation, const char* argument) {
  require(tensor.device() == Device::cpu, "{}: {} is on {}; MPI moves tensors in CPU memory", operation,
          argument, name_of(tensor.device()));
  expect_contiguous(operation, argument, tensor);
}

std::byte* bytes_of(const Tensor& tensor, Index element = 0) {
  return static_cast<std::byte*>(tensor.raw()) + static_cast<std::size_t>(element) * size_of(tensor.dtype());
}

void copy_elements(const Tensor& from, const Tensor& to, Index count) {
  if (count > 0 && from.raw() != to.raw())
    std::memmove(to.raw(), from.raw(), static_cast<std::size_t>(count) * size_of(from.dtype()));
}

void fill_side(std::span<const Index> rows, const Tensor& tensor, const char* argument,
               std::vector<int>& counts, std::vector<int>& offsets) {
  expect_row_counts(argument, tensor, rows, static_cast<int>(counts.size()));
  const Index width = row_elements(tensor);
  Index total = 0;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    require((total + rows[r]) <= INT_MAX / std::max<Index>(width, 1),
            "all_to_all: {} has more than {} elements (rows of {}), which fit no message; lower "
            "train.batch_tokens (train.accumulate makes up for it)",
            argument, INT_MAX, width);
    counts[r] = static_cast<int>(rows[r] * width);
    offsets[r] = static_cast<int>(total * width);
    total += rows[r];
  }
}

}  // namespace

MpiSession::MpiSession() : exceptions_at_start_(std::uncaught_exceptions()) {
  int initialized = 0;
  check(MPI_Initialized(&initialized), "mpi session");
  require(!initialized, "mpi session: MPI was started before in this process, and starts only once");
  int provided = MPI_THREAD_SINGLE;
  check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check(MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  if (provided != MPI_THREAD_MULTIPLE) {
    MPI_Finalize();
    fail("mpi session: this MPI was built without MPI_THREAD_MULTIPLE, which saving while training needs");
  }
}

MpiSession::~MpiSession() {
  if (!mpi_is_running()) return;
  int ranks = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  if (ranks > 1 && std::uncaught_exceptions() > exceptions_at_start_) abort(1);
  MPI_Finalize();
}

std::unique_ptr<MpiCommunicator> MpiSession::world() const {
  MPI_Comm handle = MPI_COMM_NULL;
  check(MPI_Comm_dup(MPI_COMM_WORLD, &handle), "MPI_Comm_dup");
  return std::make_unique<MpiCommunicator>(handle);
}

void MpiSession::abort(int exit_code) noexcept {
  std::cout.flush();
  std::cerr.flush();
  std::fflush(nullptr);
  if (mpi_is_running()) MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

MpiCommunicator::MpiCommunicator(MPI_Comm handle) : handle_(handle) {
  static_assert(sizeof(MPI_Request) <= sizeof(void*), "a Request holds MPI's own handle inline");
  check(MPI_Comm_set_errhandler(handle_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check(MPI_Comm_rank(handle_, &rank_), "MPI_Comm_rank");
  check(MPI_Comm_size(handle_, &size_), "MPI_Comm_size");
  const auto ranks = static_cast<std::size_t>(size_);
  for (auto* list : {&all_to_all_.send_counts, &all_to_all_.send_offsets, &all_to_all_.receive_counts,
                     &all_to_all_.receive_offsets})
    list->resize(ranks);
}

MpiCommunicator::~MpiCommunicator() {
  if (mpi_is_running()) MPI_Comm_free(&handle_);
}

void MpiCommunicator::barrier() {
  if (size_ == 1) return;
  const Timeline::Scope timed("barrier", Timeline::kCommunication);
  check(MPI_Barrier(handle_), "barrier");
}

void MpiCommunicator::all_reduce(const Tensor& values, Reduction reduction) {
  check_tensor(values, "all_reduce", "values");
  expect_reducible("all_reduce", values);
  if (size_ == 1) return;
  const Timeline::Scope timed("all_reduce", Timeline::kCommunication);
  for (Index begin = 0; begin < values.numel(); begin += kMostElements)
    check(MPI_Allreduce(MPI_IN_PLACE, bytes_of(values, begin),
                        static_cast<int>(std::min(kMostElements, values.numel() - begin)),
                        type_of(values.dtype()), op_of(reduction), handle_),
          "all_reduce");
}

Request MpiCommunicator::start_all_reduce(const Tensor& values, Reduction reduction) {
  check_tensor(values, "start_all_reduce", "values");
  expect_reducible("start_all_reduce", values);
  require(values.numel() <= kMostElements,
          "start_all_reduce: {} elements, and a call takes {}; reduce the tensor in pieces", values.numel(),
          kMostElements);
  if (size_ == 1 || values.numel() == 0) return {};
  MPI_Request native = MPI_REQUEST_NULL;
  check(MPI_Iallreduce(MPI_IN_PLACE, values.raw(), static_cast<int>(values.numel()), type_of(values.dtype()),
                       op_of(reduction), handle_, &native),
        "start_all_reduce");
  return Request(*this, native);
}

void MpiCommunicator::broadcast(const Tensor& values, int root) {
  check_tensor(values, "broadcast", "values");
  expect_root(root, size_);
  if (size_ == 1) return;
  const Timeline::Scope timed("broadcast", Timeline::kCommunication);
  for (Index begin = 0; begin < values.numel(); begin += kMostElements)
    check(
        MPI_Bcast(bytes_of(values, begin), static_cast<int>(std::min(kMostElements, values.numel() - begin)),
                  type_of(values.dtype()), root, handle_),
        "broadcast");
}

void MpiCommunicator::all_gather(const Tensor& mine, const Tensor& gathered) {
  check_tensor(mine, "all_gather", "mine");
  check_tensor(gathered, "all_gather", "gathered");
  expect_gathered(mine, gathered, size_);
  require(gathered.numel() <= INT_MAX,
          "all_gather: {} elements of all ranks, at most {} fit one message; lower train.batch_tokens "
          "(train.accumulate makes up for it)",
          gathered.numel(), INT_MAX);
  if (size_ == 1) return copy_elements(mine, gathered, mine.numel());
  if (mine.numel() == 0) return;
  const Timeline::Scope timed("all_gather", Timeline::kCommunication);
  const int count = static_cast<int>(mine.numel());
  const MPI_Datatype type = type_of(mine.dtype());
  check(MPI_Allgather(mine.raw(), count, type, gathered.raw(), count, type, handle_), "all_gather");
}

void MpiCommunicator::all_to_all(const Tensor& send, std::span<const Index> send_rows, const Tensor& receive,
                                 std::span<const Index> receive_rows) {
  check_tensor(send, "all_to_all", "send");
  check_tensor(receive, "all_to_all", "receive");
  auto& [send_counts, send_offsets, receive_counts, receive_offsets] = all_to_all_;
  fill_side(send_rows, send, "send", send_counts, send_offsets);
  fill_side(receive_rows, receive, "receive", receive_counts, receive_offsets);
  expect_same_rows("all_to_all", send, receive);
  expect_own_rows(send_rows, receive_rows, rank_);
  if (size_ == 1) return copy_elements(send, receive, send_counts[0]);
  const Timeline::Scope timed("all_to_all", Timeline::kCommunication);
  const MPI_Datatype type = type_of(send.dtype());
  check(MPI_Alltoallv(send.raw(), send_counts.data(), send_offsets.data(), type, receive.raw(),
                      receive_counts.data(), receive_offsets.data(), type, handle_),
        "all_to_all");
}

void MpiCommunicator::check_messages(const Tensor& tensor, std::span<const PeerRows> blocks,
                                     bool sending) const {
  const char* operation = "start_exchange";
  check_tensor(tensor, operation, sending ? "send" : "receive");
  const Index width = row_elements(tensor);
  expect_blocks(tensor, blocks, sending ? "send" : "receive", rank_, size_);
  for (const auto& [rank, first, rows] : blocks)
    require(rows <= INT_MAX / std::max<Index>(width, 1),
            "{}: {} rows of {} elements are more than one message holds; lower train.batch_tokens "
            "(train.accumulate makes up for it), or raise parallel.expert_parallel",
            operation, rows, width);
}

void MpiCommunicator::add_messages(Exchange& exchange, const Tensor& tensor, std::span<const PeerRows> blocks,
                                   bool sending) const {
  const Index width = row_elements(tensor);
  for (const auto& [rank, first, rows] : blocks) {
    if (rows * width == 0) continue;
    std::byte* const at = bytes_of(tensor, first * width);
    const int count = static_cast<int>(rows * width);
    MPI_Request& message = exchange.messages.emplace_back(MPI_REQUEST_NULL);
    check(sending ? MPI_Isend(at, count, type_of(tensor.dtype()), rank, kExchangeTag, handle_, &message)
                  : MPI_Irecv(at, count, type_of(tensor.dtype()), rank, kExchangeTag, handle_, &message),
          "start_exchange");
  }
}

Request MpiCommunicator::start_exchange(const Tensor& send, std::span<const PeerRows> leaving,
                                        const Tensor& receive, std::span<const PeerRows> arriving) {
  expect_same_rows("start_exchange", send, receive);
  const auto free =
      std::find_if(exchanges_.begin(), exchanges_.end(), [](const auto& exchange) { return !exchange.busy; });
  require(free != exchanges_.end(),
          "start_exchange: {} are under way on this communicator; wait for one first", kExchanges);
  free->messages.clear();
  free->messages.reserve(leaving.size() + arriving.size());
  // Both, before anything is started: an exception would leave what was started to write into `receive`.
  check_messages(receive, arriving, false);
  check_messages(send, leaving, true);
  add_messages(*free, receive, arriving, false);
  add_messages(*free, send, leaving, true);
  free->busy = true;
  return Request(*this, nullptr, static_cast<int>(free - exchanges_.begin()));
}

bool MpiCommunicator::finish(void*& native, int slot, bool block) {
  int complete = 1;
  if (slot >= 0) {
    Exchange& exchange = exchanges_[static_cast<std::size_t>(slot)];
    const int count = static_cast<int>(exchange.messages.size());
    const int code = block ? MPI_Waitall(count, exchange.messages.data(), MPI_STATUSES_IGNORE)
                           : MPI_Testall(count, exchange.messages.data(), &complete, MPI_STATUSES_IGNORE);
    if (code != MPI_SUCCESS || complete) exchange.busy = false;
    check(code, "wait for an exchange started before");
    return complete != 0;
  }
  MPI_Request request = static_cast<MPI_Request>(native);
  const int code =
      block ? MPI_Wait(&request, MPI_STATUS_IGNORE) : MPI_Test(&request, &complete, MPI_STATUS_IGNORE);
  native = request;
  check(code, "wait for an operation started before");
  return complete != 0;
}

std::unique_ptr<Communicator> MpiCommunicator::split(int colour) {
  require(colour >= 0, "split: colour {} is negative", colour);
  MPI_Comm handle = MPI_COMM_NULL;
  check(MPI_Comm_split(handle_, colour, rank_, &handle), "split");
  return std::make_unique<MpiCommunicator>(handle);
}

}  // namespace conclave
