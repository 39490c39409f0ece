// NCCL's functions, implemented with MPI. One call sends one message to a rank: a Header, which lets the
// receiver check that both ranks make the same call, and the elements. Messages between two ranks of a
// communicator arrive in order. A send is complete only once the message was received (MPI_Issend).
#define OMPI_SKIP_MPICXX 1
#include <mpi.h>
#include <nccl.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <deque>
#include <map>

#include "tests/cuda_emulator/internal.h"

namespace conclave::emulator {
namespace {

enum class Kind : std::uint8_t { all_reduce, broadcast, all_gather, send, receive };
constexpr std::array kNames{"ncclAllReduce", "ncclBroadcast", "ncclAllGather", "ncclSend", "ncclRecv"};

struct Call {
  Kind kind;
  const void* send;  // null: this rank sends nothing
  void* receive;     // null: this rank receives nothing
  std::size_t count;
  ncclDataType_t type;
  int parameter;  // the reduction, the root, or the peer
};

struct Header {
  Kind kind;
  std::uint8_t type;
  int parameter;
  std::uint64_t count;
  std::uint64_t collective;  // number of the collective within the communicator
};

bool collective(Kind kind) { return kind < Kind::send; }

std::size_t size_of(int type) {
  switch (type) {
    case ncclInt8:
    case ncclUint8:
      return 1;
    case ncclBfloat16:
      return 2;
    case ncclInt32:
    case ncclFloat32:
      return 4;
    case ncclInt64:
    case ncclFloat64:
      return 8;
  }
  throw Report("NCCL: there is no type " + std::to_string(type) + ", or not here");
}

std::string text_of_type(int type) {
  static const std::map<int, std::string> names{
      {ncclInt8, "int8"},       {ncclUint8, "uint8"},     {ncclInt32, "int32"},      {ncclInt64, "int64"},
      {ncclFloat32, "float32"}, {ncclFloat64, "float64"}, {ncclBfloat16, "bfloat16"}};
  const auto found = names.find(type);
  return found == names.end() ? "type " + std::to_string(type) : found->second;
}

// "ncclBroadcast of 4 float32 from rank 1, collective 7"
std::string text_of(Kind kind, std::uint64_t count, int type, int parameter, std::uint64_t number) {
  std::string text = std::string(kNames[static_cast<std::size_t>(kind)]) + " of " + std::to_string(count) +
                     " " + text_of_type(type);
  switch (kind) {
    case Kind::all_reduce:
      text += parameter == ncclSum ? " (sum)" : parameter == ncclMax ? " (max)" : " (min)";
      break;
    case Kind::broadcast:
    case Kind::receive:
      text += " from rank " + std::to_string(parameter);
      break;
    case Kind::send:
      text += " to rank " + std::to_string(parameter);
      break;
    case Kind::all_gather:
      break;
  }
  return collective(kind) ? text + ", collective " + std::to_string(number) : text;
}

void check_mpi(int code, const char* what) {
  if (code != MPI_SUCCESS) throw Report(std::string("NCCL: ") + what + " failed");
}

template <class T>
void reduce(const std::byte* from, std::byte* into, std::size_t count, int reduction) {
  for (std::size_t i = 0; i < count; ++i) {
    T a, b;
    std::memcpy(&a, into + i * sizeof(T), sizeof(T));
    std::memcpy(&b, from + i * sizeof(T), sizeof(T));
    a = reduction == ncclSum ? static_cast<T>(a + b) : reduction == ncclMax ? std::max(a, b) : std::min(a, b);
    std::memcpy(into + i * sizeof(T), &a, sizeof(T));
  }
}

auto reduction_of(ncclDataType_t type) {
  switch (type) {
    case ncclInt8:
      return &reduce<std::int8_t>;
    case ncclUint8:
      return &reduce<std::uint8_t>;
    case ncclInt32:
      return &reduce<std::int32_t>;
    case ncclInt64:
      return &reduce<std::int64_t>;
    case ncclFloat32:
      return &reduce<float>;
    case ncclFloat64:
      return &reduce<double>;
    case ncclBfloat16:
      break;
  }
  throw Report("ncclAllReduce of " + text_of_type(type) + " is not emulated");
}

// State of a communicator; outlives the handle as long as work is queued.
struct State {
  int rank = 0, size = 1, tag = 0;
  std::vector<int> world_ranks;        // rank in MPI_COMM_WORLD, by rank in this communicator
  std::uint64_t queued = 0, done = 0;  // pieces of work, which run in the order of their calls on any stream
  std::uint64_t collectives = 0;       // collectives so far
  // Of each piece that is not done: whether it sends to a rank from which it receives nothing, so that no
  // message tells when that rank waits for it.
  std::deque<bool> unannounced;
  bool posted = false;  // whether the messages of the next piece were sent
  std::atomic<bool> aborted = false, failed = false, destroyed = false;
};

auto& states = *new std::vector<std::weak_ptr<State>>;  // of all communicators
std::atomic<bool> planted_error = false;
// Why the last failed call of this thread failed, for ncclGetLastError.
thread_local std::string last_error;

ncclResult_t refuse(ncclResult_t result, const std::string& why) {
  last_error = why;
  return result;
}

// One call, or one group of calls: a piece of work of a stream.
class Piece final : public SharedWork {
 public:
  Piece(std::shared_ptr<State> state, std::vector<Call> calls)
      : state_(std::move(state)), calls_(std::move(calls)), number_(state_->queued++) {
    for (const Call& call : calls_)
      numbers_.push_back(collective(call.kind) ? ++state_->collectives : std::uint64_t{0});
    state_->unannounced.push_back(std::ranges::any_of(calls_, [this](const Call& call) {
      return call.kind == Kind::send && std::ranges::none_of(calls_, [&](const Call& other) {
               return other.kind == Kind::receive && other.parameter == call.parameter;
             });
    }));
  }
  ~Piece() override {
    if (complete_) return;
    state_->failed = true;
    // MPI may still read from and write to these messages, so they are never freed.
    for (auto* messages : {&sent_, &awaited_}) new std::deque<Message>(std::move(*messages));
  }

  std::string name() const {
    const Call& first = calls_.front();
    return text_of(first.kind, first.count, first.type, first.parameter, numbers_.front()) +
           (calls_.size() == 1 ? "" : " and " + std::to_string(calls_.size() - 1) + " more");
  }

  void expect_memory() const {
    std::vector<Range> reads, writes;
    for (std::size_t i = 0; i < calls_.size(); ++i) {
      const char* const name = kNames[static_cast<std::size_t>(calls_[i].kind)];
      for (const auto& [memory, bytes, call] : {read_by(i), written_by(i)})
        if (bytes > 0) expect_device(memory, bytes, name);
      reads.push_back(read_by(i));
      writes.push_back(written_by(i));
    }
    for (const Range& write : writes) {
      for (const Range& read : reads)
        if (overlap(write, read) && !in_place(write, read))
          throw Report(name() + ": it reads " + describe(address(read.memory)) +
                       ", which overlaps what it writes, " + describe(address(write.memory)));
      for (const Range& other : writes)
        if (&other != &write && overlap(write, other))
          throw Report(name() + ": it writes twice to " + describe(address(write.memory)));
    }
  }

  bool advance() override {
    if (!begun_) {
      begun_ = true;
      expect_memory();
      for (std::size_t i = 0; i < calls_.size(); ++i) {
        if (const Range read = read_by(i); read.bytes > 0) see_range(read.memory, read.bytes, false);
        if (const Range write = written_by(i); write.bytes > 0) see_range(write.memory, write.bytes, true);
      }
    }
    if (state_->failed) throw Report(name() + ": the communicator has failed before");
    if (state_->aborted) return finish([](std::size_t) {});
    if (number_ != state_->done) return false;  // behind work on another stream
    if (!state_->posted) post();
    if (!receive()) return false;
    for (Message& message : sent_) {
      int sent = 0;
      check_mpi(MPI_Test(&message.request, &sent, MPI_STATUS_IGNORE), "MPI_Test");
      if (!sent) return false;
    }
    return finish([this](std::size_t call) { take(call); });
  }

  std::string waits_for() const override {
    if (number_ != state_->done) return "waits for work queued before it on another stream";
    for (const Message& message : awaited_)
      if (!message.complete) return "has nothing of rank " + std::to_string(message.peer) + " yet";
    for (const Message& message : sent_)
      if (int sent = 0;
          MPI_Request_get_status(message.request, &sent, MPI_STATUS_IGNORE) == MPI_SUCCESS && !sent)
        return "has not been received by rank " + std::to_string(message.peer) + " yet";
    return "waits";
  }

 private:
  struct Range {
    const void* memory = nullptr;
    std::size_t bytes = 0;
    std::size_t call = 0;
  };
  struct Message {
    std::size_t call;
    int peer;
    std::vector<std::byte> bytes;
    MPI_Request request = MPI_REQUEST_NULL;
    bool probed = false, complete = false;
  };

  std::size_t bytes_of(const Call& call) const { return call.count * size_of(call.type); }
  Range read_by(std::size_t number) const {
    const Call& call = calls_[number];
    if (!call.send) return {};
    return {call.send, bytes_of(call), number};
  }
  Range written_by(std::size_t number) const {
    const Call& call = calls_[number];
    if (!call.receive) return {};
    const std::size_t parts = call.kind == Kind::all_gather ? static_cast<std::size_t>(state_->size) : 1;
    return {call.receive, bytes_of(call) * parts, number};
  }
  static bool overlap(const Range& a, const Range& b) {
    return address(a.memory) < address(b.memory) + b.bytes && address(b.memory) < address(a.memory) + a.bytes;
  }
  // Whether the two buffers of a call overlap in the way that NCCL allows.
  bool in_place(const Range& write, const Range& read) const {
    if (write.call != read.call) return false;
    const std::size_t part =
        calls_[read.call].kind == Kind::all_gather ? static_cast<std::size_t>(state_->rank) : 0;
    return address(read.memory) == address(write.memory) + part * read.bytes;
  }

  void add_message(std::size_t number, int peer, bool with_elements) {
    const Call& call = calls_[number];
    const Header header{call.kind, static_cast<std::uint8_t>(call.type), call.parameter, call.count,
                        numbers_[number]};
    Message& message = sent_.emplace_back(Message{number, peer, {}});
    message.bytes.resize(sizeof header + (with_elements ? bytes_of(call) : 0));
    std::memcpy(message.bytes.data(), &header, sizeof header);
    if (with_elements) std::memcpy(message.bytes.data() + sizeof header, call.send, bytes_of(call));
    check_mpi(MPI_Issend(message.bytes.data(), static_cast<int>(message.bytes.size()), MPI_BYTE,
                         state_->world_ranks[static_cast<std::size_t>(peer)], state_->tag, MPI_COMM_WORLD,
                         &message.request),
              "MPI_Issend");
  }

  void post() {
    state_->posted = true;
    expect_memory();  // again, as it may have been freed in the meantime
    for (std::size_t i = 0; i < calls_.size(); ++i) {
      const Call& call = calls_[i];
      if (call.kind == Kind::send) add_message(i, call.parameter, true);
      if (call.kind == Kind::receive) awaited_.push_back(Message{i, call.parameter, {}});
      if (!collective(call.kind)) continue;
      for (int peer = 0; peer < state_->size; ++peer) {
        if (peer == state_->rank) continue;
        add_message(i, peer, call.kind != Kind::broadcast || call.parameter == state_->rank);
        awaited_.push_back(Message{i, peer, {}});
      }
    }
  }

  // Receives the messages that have arrived; returns whether all have.
  bool receive() {
    std::vector<bool> blocked(static_cast<std::size_t>(state_->size), false);
    bool all = true;
    for (Message& message : awaited_) {
      if (message.complete) continue;
      const auto peer = static_cast<std::size_t>(message.peer);
      if (!message.probed && !blocked[peer]) {
        int there = 0;
        MPI_Message matched;
        MPI_Status status;
        check_mpi(
            MPI_Improbe(state_->world_ranks[peer], state_->tag, MPI_COMM_WORLD, &there, &matched, &status),
            "MPI_Improbe");
        if (there) {
          int bytes = 0;
          MPI_Get_count(&status, MPI_BYTE, &bytes);
          message.bytes.resize(static_cast<std::size_t>(bytes));
          check_mpi(MPI_Imrecv(message.bytes.data(), bytes, MPI_BYTE, &matched, &message.request),
                    "MPI_Imrecv");
          message.probed = true;
        }
      }
      if (message.probed) {
        int complete = 0;
        check_mpi(MPI_Test(&message.request, &complete, MPI_STATUS_IGNORE), "MPI_Test");
        message.complete = complete != 0;
      } else {
        blocked[peer] = true;
      }
      if (message.complete) compare(message);
      all &= message.complete;
    }
    return all;
  }

  // Throws Report if a message does not belong to the same call as this rank's.
  void compare(const Message& message) const {
    Header theirs;
    std::memcpy(&theirs, message.bytes.data(), sizeof theirs);
    const Call& mine = calls_[message.call];
    const std::uint64_t number = numbers_[message.call];
    const bool same =
        collective(mine.kind)
            ? theirs.kind == mine.kind && theirs.parameter == mine.parameter && theirs.collective == number
            : theirs.kind == Kind::send;
    if (!same || theirs.count != mine.count || theirs.type != mine.type)
      throw Report("NCCL: rank " + std::to_string(message.peer) + " does " +
                   text_of(theirs.kind, theirs.count, theirs.type, theirs.parameter, theirs.collective) +
                   ", where rank " + std::to_string(state_->rank) + " does " +
                   text_of(mine.kind, mine.count, mine.type, mine.parameter, number));
  }

  const Message* from(std::size_t call, int peer) const {
    const auto found = std::ranges::find_if(
        awaited_, [&](const Message& message) { return message.call == call && message.peer == peer; });
    return found == awaited_.end() ? nullptr : &*found;
  }

  // Writes the result of a call to device memory.
  void take(std::size_t number) {
    const Call& call = calls_[number];
    if (!call.receive) return;
    auto* const into = static_cast<std::byte*>(call.receive);
    const std::size_t bytes = bytes_of(call);
    const auto elements = [&](int peer) {
      return peer == state_->rank ? static_cast<const std::byte*>(call.send)
                                  : from(number, peer)->bytes.data() + sizeof(Header);
    };
    switch (call.kind) {
      case Kind::all_reduce: {  // in the order of ranks, so all ranks get the same bits
        std::vector<std::byte> sum(elements(0), elements(0) + bytes);
        for (int peer = 1; peer < state_->size; ++peer)
          reduction_of(call.type)(elements(peer), sum.data(), call.count, call.parameter);
        std::ranges::copy(sum, into);
        break;
      }
      case Kind::broadcast:
        if (const std::byte* const root = elements(call.parameter); root != into)
          std::copy_n(root, bytes, into);
        break;
      case Kind::all_gather:
        for (int peer = 0; peer < state_->size; ++peer)
          std::memmove(into + static_cast<std::size_t>(peer) * bytes, elements(peer), bytes);
        break;
      case Kind::receive:
        std::copy_n(awaited_of(number).bytes.data() + sizeof(Header), bytes, into);
        break;
      case Kind::send:
        break;
    }
  }
  const Message& awaited_of(std::size_t call) const { return *from(call, calls_[call].parameter); }

  template <class Take>
  bool finish(Take&& take_call) {
    for (std::size_t i = 0; i < calls_.size(); ++i) take_call(i);
    if (state_->aborted)  // an aborted operation leaves undefined values
      for (std::size_t i = 0; i < calls_.size(); ++i)
        if (const Range write = written_by(i); write.bytes > 0)
          std::memset(calls_[i].receive, kPoison, write.bytes);
    ++state_->done;
    state_->unannounced.pop_front();
    state_->posted = false;
    complete_ = !state_->aborted;
    return true;
  }

  const std::shared_ptr<State> state_;
  const std::vector<Call> calls_;
  const std::uint64_t number_;
  std::vector<std::uint64_t> numbers_;  // for each call its number as a collective; 0 for sends and receives
  std::deque<Message> sent_, awaited_;
  bool begun_ = false, complete_ = false;
};

// ---- Groups

struct Member {
  std::shared_ptr<State> state;
  cudaStream_t stream;
  std::vector<Call> calls;
};
thread_local int depth = 0;
thread_local std::vector<Member> members;  // of the open group

void queue_piece(const Member& member) {
  const auto piece = std::make_shared<Piece>(member.state, member.calls);
  piece->expect_memory();
  queue_shared(member.stream, piece->name(), piece);
}

// A mistake becomes a report of the device and the result of this call.
template <class Body>
ncclResult_t guarded(Body&& body) {
  const std::lock_guard lock(mutex);
  try {
    return body();
  } catch (const std::exception& error) {
    complain(error.what());
    return refuse(ncclInvalidUsage, error.what());
  }
}

}  // namespace

bool help_peers() {
  const std::unique_lock lock(mutex, std::try_to_lock);
  if (!lock) return false;
  std::erase_if(states, [](const auto& state) { return state.expired(); });
  return std::ranges::any_of(
             states,
             [](const auto& weak) {
               const auto state = weak.lock();
               if (!state || state->failed || state->aborted) return false;
               int there = state->posted || (state->queued > state->done && state->unannounced.front());
               if (state->queued > state->done && !there)
                 check_mpi(MPI_Iprobe(MPI_ANY_SOURCE, state->tag, MPI_COMM_WORLD, &there, MPI_STATUS_IGNORE),
                           "MPI_Iprobe");
               return there != 0;
             }) &&
         go_on();
}

void plant_nccl_error(bool planted) { planted_error = planted; }

}  // namespace conclave::emulator

struct ncclComm {
  std::shared_ptr<conclave::emulator::State> state = std::make_shared<conclave::emulator::State>();
};

using namespace conclave::emulator;

namespace {

// Handles are never freed, so that use of a destroyed one is detected.
State& usable(ncclComm_t comm, const char* what) {
  if (!comm) throw Report(std::string(what) + ": there is no communicator");
  if (comm->state->destroyed) throw Report(std::string(what) + ": the communicator was destroyed before");
  if (comm->state->aborted) throw Report(std::string(what) + ": the communicator was aborted before");
  return *comm->state;
}

ncclResult_t add(ncclComm_t comm, cudaStream_t stream, const Call& call) {
  return guarded([&] {
    const char* const name = kNames[static_cast<std::size_t>(call.kind)];
    const State& state = usable(comm, name);
    if (state.failed)
      return refuse(ncclInternalError, std::string(name) + ": the communicator has failed before");
    const bool to_rank = call.kind != Kind::all_reduce && call.kind != Kind::all_gather;
    if (to_rank && (call.parameter < 0 || call.parameter >= state.size))
      throw Report(std::string(name) + ": rank " + std::to_string(call.parameter) + " is not one of " +
                   std::to_string(state.size));
    if (!collective(call.kind) && call.parameter == state.rank)
      throw Report(std::string(name) + ": to and from this rank itself is not emulated");
    size_of(call.type);
    if (call.kind == Kind::all_reduce) reduction_of(call.type);
    if (depth == 0) {
      queue_piece({comm->state, stream, {call}});
      return ncclSuccess;
    }
    auto member = std::ranges::find(members, comm->state, &Member::state);
    if (member == members.end()) member = members.insert(member, {comm->state, stream, {}});
    if (member->stream != stream)
      throw Report(std::string(name) + ": a group has one stream for each communicator here");
    member->calls.push_back(call);
    return ncclSuccess;
  });
}

// Each rank sends its Introduction to the rank that made the id, which answers with those of all ranks.
struct Introduction {
  int rank, ranks, world_rank;
  char bus_id[32];
};
struct Identity {
  int world_rank, number;
};
constexpr int kFirstTag = 1 << 20, kTags = 1 << 8;

int tag_of(const Identity& id) { return kFirstTag + id.world_rank * kTags + id.number % kTags; }

void receive(void* into, int bytes, int from, int tag) {
  MPI_Request request;
  check_mpi(MPI_Irecv(into, bytes, MPI_BYTE, from, tag, MPI_COMM_WORLD, &request), "MPI_Irecv");
  check_mpi(MPI_Wait(&request, MPI_STATUS_IGNORE), "MPI_Wait");
}

std::string meet(State& state, const Identity& id, const Introduction& me) {
  std::vector<Introduction> all(static_cast<std::size_t>(me.ranks));
  const int tag = tag_of(id);
  constexpr int kBytes = sizeof(Introduction);
  std::string wrong;
  if (me.world_rank == id.world_rank) {
    all[0] = me;
    for (std::size_t i = 1; i < all.size(); ++i) receive(&all[i], kBytes, MPI_ANY_SOURCE, tag);
    for (std::size_t i = 1; i < all.size(); ++i)
      check_mpi(MPI_Send(all.data(), me.ranks * kBytes, MPI_BYTE, all[i].world_rank, tag, MPI_COMM_WORLD),
                "MPI_Send");
  } else {
    check_mpi(MPI_Send(&me, kBytes, MPI_BYTE, id.world_rank, tag, MPI_COMM_WORLD), "MPI_Send");
    receive(all.data(), me.ranks * kBytes, id.world_rank, tag);
  }
  state.world_ranks.assign(all.size(), -1);
  for (const Introduction& one : all) {
    if (one.ranks != me.ranks || one.rank < 0 || one.rank >= me.ranks)
      return "rank " + std::to_string(one.rank) + " of " + std::to_string(one.ranks) + ", beside rank " +
             std::to_string(me.rank) + " of " + std::to_string(me.ranks);
    int& world_rank = state.world_ranks[static_cast<std::size_t>(one.rank)];
    if (std::exchange(world_rank, one.world_rank) != -1)
      return "rank " + std::to_string(one.rank) + " came twice";
    for (const Introduction& other : all)
      if (&other != &one && std::string_view(other.bus_id) == one.bus_id)
        return "Duplicate GPU detected : rank " + std::to_string(one.rank) + " and rank " +
               std::to_string(other.rank) + " both on CUDA device " + one.bus_id;
  }
  return "";
}

}  // namespace

extern "C" {

const char* ncclGetErrorString(ncclResult_t result) {
  constexpr std::array kTexts{"no error",
                              "unhandled cuda error",
                              "unhandled system error",
                              "internal error",
                              "invalid argument",
                              "invalid usage",
                              "remote process exited or there was a network error",
                              "NCCL operation in progress"};
  return kTexts[static_cast<std::size_t>(result)];
}

const char* ncclGetLastError(ncclComm_t) { return planted_error ? "a peer is lost" : last_error.c_str(); }

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  return guarded([&] {
    static int number = 0;
    Identity identity{0, number++};
    check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &identity.world_rank), "MPI_Comm_rank");
    *id = {};
    std::memcpy(id->internal, &identity, sizeof identity);
    return ncclSuccess;
  });
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  return guarded([&] {
    *comm = nullptr;
    if (config->size != sizeof *config || config->magic != 0xcafebeef)
      return refuse(ncclInvalidArgument, "the configuration was not made by NCCL_CONFIG_INITIALIZER");
    if (config->blocking == 0)
      return refuse(ncclInvalidArgument, "communicators that do not block are not emulated");
    if (ranks < 1 || rank < 0 || rank >= ranks)
      return refuse(ncclInvalidArgument,
                    "there is no rank " + std::to_string(rank) + " of " + std::to_string(ranks));
    if (depth > 0) throw Report("ncclCommInitRankConfig: within a group is not emulated");
    Identity identity;
    std::memcpy(&identity, id.internal, sizeof identity);
    Introduction me{rank, ranks, 0, {}};
    check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &me.world_rank), "MPI_Comm_rank");
    int device = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetPCIBusId(me.bus_id, sizeof me.bus_id, device) != cudaSuccess)
      return refuse(ncclUnhandledCudaError, "there is no current device");
    auto made = std::make_unique<ncclComm>();
    made->state->rank = rank;
    made->state->size = ranks;
    made->state->tag = tag_of(identity);
    if (const std::string wrong = meet(*made->state, identity, me); !wrong.empty())
      return refuse(ncclInvalidUsage, wrong);
    states.push_back(made->state);
    *comm = made.release();
    return ncclSuccess;
  });
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  return guarded([&] {
    if (!comm) return ncclSuccess;
    State& state = usable(comm, "ncclCommDestroy");
    state.destroyed = true;
    if (depth > 0) throw Report("ncclCommDestroy: a group is open");
    if (state.failed) return ncclSuccess;
    if (state.done != state.queued)
      throw Report("ncclCommDestroy: " + std::to_string(state.queued - state.done) +
                   " of its operations are not complete");
    for (std::size_t peer = 0; peer < state.world_ranks.size(); ++peer) {
      int there = 0;
      check_mpi(MPI_Iprobe(state.world_ranks[peer], state.tag, MPI_COMM_WORLD, &there, MPI_STATUS_IGNORE),
                "MPI_Iprobe");
      if (there) throw Report("ncclCommDestroy: nobody received what rank " + std::to_string(peer) + " sent");
    }
    return ncclSuccess;
  });
}

// May be called from any thread while another one waits for the device.
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  comm->state->aborted = true;
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t, ncclResult_t* error) {
  *error = planted_error ? ncclRemoteError : ncclSuccess;
  return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* send, void* receive, std::size_t count, ncclDataType_t type,
                           ncclRedOp_t reduction, ncclComm_t comm, cudaStream_t stream) {
  return add(comm, stream, {Kind::all_reduce, send, receive, count, type, reduction});
}

ncclResult_t ncclBroadcast(const void* send, void* receive, std::size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  const bool gives = comm && comm->state->rank == root;
  return add(comm, stream, {Kind::broadcast, gives ? send : nullptr, receive, count, type, root});
}

ncclResult_t ncclAllGather(const void* send, void* receive, std::size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  return add(comm, stream, {Kind::all_gather, send, receive, count, type, 0});
}

ncclResult_t ncclSend(const void* send, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return add(comm, stream, {Kind::send, send, nullptr, count, type, peer});
}

ncclResult_t ncclRecv(void* receive, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return add(comm, stream, {Kind::receive, nullptr, receive, count, type, peer});
}

ncclResult_t ncclGroupStart() {
  ++depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  return guarded([] {
    if (depth == 0) throw Report("ncclGroupEnd: no group was started");
    if (--depth > 0) return ncclSuccess;
    for (const Member& member : std::exchange(members, {})) queue_piece(member);
    return ncclSuccess;
  });
}

}  // extern "C"
