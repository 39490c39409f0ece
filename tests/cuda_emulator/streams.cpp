// CUDA's host functions. Decides when the work of the device runs: as late as CUDA allows.
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <thread>

#include "tests/cuda_emulator/internal.h"

namespace conclave::emulator {
namespace {

using Clock = std::chrono::steady_clock;

// For each stream, the number of its pieces of work that are known to precede something.
using Past = std::vector<std::uint64_t>;

void join(Past& past, const Past& other) {
  past.resize(std::max(past.size(), other.size()));
  for (std::size_t i = 0; i < other.size(); ++i) past[i] = std::max(past[i], other[i]);
}

struct Work {
  std::function<bool(std::uint32_t)> run;  // gets the number of the work; returns whether it is complete
  std::string name;                        // "" for work that touches no memory
  Past before;
  std::shared_ptr<SharedWork> shared;  // null for work of this process alone
  bool begun = false;
  std::uint32_t number = 0;
};

// Work that was queued while its stream was captured.
struct Captured {
  std::function<bool(std::uint32_t)> run;
  std::string name;
};

// A destroyed stream lives until its work is done and its events are gone. Its handle is never freed, so that
// use of a destroyed stream is detected.
struct Stream {
  std::size_t number = 0;
  std::deque<Work> work;
  std::uint64_t queued = 0, done = 0;
  Past past;  // known to precede the work that is queued next
  bool destroyed = false;
  bool running = false;  // the first piece of work is running; while it waits, all streams may proceed
  std::optional<std::vector<Captured>> captured;  // set during a capture
};

// The point in a stream that an event stands for until the next cudaEventRecord.
struct Mark {
  std::shared_ptr<Stream> stream;
  std::uint64_t ticket = 0;
  Past past;
  Clock::time_point passed{};
};

}  // namespace

std::recursive_mutex mutex;
Counters counts;

}  // namespace conclave::emulator

struct CUstream_st {
  std::shared_ptr<conclave::emulator::Stream> stream = std::make_shared<conclave::emulator::Stream>();
};
struct CUgraph_st {
  std::vector<conclave::emulator::Captured> work;
};
struct CUgraphExec_st {
  std::vector<conclave::emulator::Captured> work;
  bool destroyed = false;
};
struct CUevent_st {
  bool timed = true;
  std::shared_ptr<conclave::emulator::Mark> mark;
};

namespace conclave::emulator {
namespace {

// Never destroyed, because streams in static variables are destroyed late.
auto& default_stream = *new CUstream_st;
auto& streams = *new std::vector<std::shared_ptr<Stream>>{default_stream.stream};
auto& destroyed_handles = *new std::vector<cudaStream_t>;
auto& destroyed_graphs =
    *new std::vector<cudaGraphExec_t>;  // keeps the handles, so that their use is detected
std::size_t stream_count = 1;
Past& past_of_host = *new Past;  // work that the host has waited for
std::string& report = *new std::string;
// Bytes of dynamic shared memory that cudaFuncSetAttribute allowed, by kernel.
auto& allowed_shared = *new std::map<const void*, std::size_t>;
std::size_t shared_limit = kMostShared;             // for a block, of both kinds
thread_local cudaError_t last_error = cudaSuccess;  // the last error that is not a report
thread_local bool queues = false;                   // whether this thread has queued work
thread_local int captures = 0;                      // number of streams that this thread captures
std::chrono::milliseconds patience{30'000};
std::uint64_t pieces_done = 0;
int device_count = 1, driver = CUDART_VERSION;
cudaError_t device_error = cudaSuccess;      // returned by cudaGetDeviceCount
DeviceErrors device_errors;                  // returned by other functions
std::string& bus_id = *new std::string([] {  // "": one that no other process has
  const char* const given = std::getenv("CONCLAVE_CUDA_BUS_ID");
  return given ? given : "";
}());

cudaError_t status() { return report.empty() ? cudaSuccess : cudaErrorLaunchFailure; }

cudaError_t refuse(cudaError_t error) { return last_error = error; }

const std::shared_ptr<Stream>& owner_of(cudaStream_t handle) {
  const std::shared_ptr<Stream>& stream = (handle ? *handle : default_stream).stream;
  if (stream->destroyed) throw Report("a stream is used that was destroyed");
  return stream;
}
Stream& of(cudaStream_t handle) { return *owner_of(handle); }

// `run` returns whether the work is complete.
void enqueue(cudaStream_t handle, const std::string& name, std::function<bool(std::uint32_t)> run,
             std::shared_ptr<SharedWork> shared = nullptr) {
  queues = true;
  Stream& stream = of(handle);
  if (stream.captured) {
    if (shared) throw Report(name + " is captured, which this device does not do");
    stream.captured->push_back({std::move(run), name});
    return;
  }
  join(stream.past, past_of_host);
  stream.work.push_back({std::move(run), name, stream.past, std::move(shared)});
  ++stream.queued;
  stream.past.resize(std::max(stream.past.size(), stream.number + 1));
  stream.past[stream.number] = stream.queued;
}

// Tries to run the stream's next piece of work; returns whether it is complete. After a report, work is
// dropped without being run, as after a CUDA error.
bool advance(Stream& stream) {
  // Calls are nested when a piece of work waits: this stream's piece may be the one that waits, and other
  // calls may have completed all work of this stream.
  if (stream.running || stream.work.empty()) return false;
  Work& work = stream.work.front();
  if (report.empty()) {
    stream.running = true;
    bool done = true;
    try {
      if (!std::exchange(work.begun, true) && !work.name.empty())
        work.number = begin_work(stream.number, stream.done + 1, work.before, work.name);
      done = work.run(work.number);
    } catch (const std::exception& error) {
      complain(error.what());
    }
    stream.running = false;
    if (!done) return false;
  }
  const Work done = std::move(work);
  stream.work.pop_front();
  ++stream.done;
  ++pieces_done;
  return true;
}

std::vector<Stream*> busy_streams() {
  std::vector<Stream*> busy;
  for (const auto& stream : streams)
    if (!stream->work.empty()) busy.push_back(stream.get());
  order.shuffle(std::span(busy));
  return busy;
}

// Runs one piece of work of a random stream; false if all streams wait for other processes.
bool advance_any() {
  return std::ranges::any_of(busy_streams(), [](Stream* stream) { return advance(*stream); });
}

// Pauses while no stream can proceed; adds a report once that has lasted too long.
class Waiting {
 public:
  void wait() {
    if (std::exchange(pieces_, pieces_done) != pieces_done) since_ = Clock::now();
    if (Clock::now() - since_ > patience) {
      std::string what;
      for (const Stream* stream : busy_streams())
        if (const auto& work = stream->work.front(); work.shared && work.begun)
          what += "; " + work.name + " " + work.shared->waits_for();
      complain("nothing went on for " + std::to_string(patience.count()) + " ms" + what);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }

 private:
  Clock::time_point since_ = Clock::now();
  std::uint64_t pieces_ = pieces_done;
};

// Runs the stream's work up to piece number `ticket`, and other streams' work only while this stream waits
// for other processes.
void drain(Stream& stream, std::uint64_t ticket) {
  if (stream.done >= ticket) return;
  const OnDevice scope;
  Waiting waiting;
  while (stream.done < ticket)
    if (!advance(stream) && !advance_any()) waiting.wait();
}

// Runs one piece of work, preferably of this stream, if any can proceed.
void nudge(Stream& stream) {
  const OnDevice scope;
  if (!advance(stream)) advance_any();
}

void drain_all() {
  for (const auto& stream : streams) join(past_of_host, stream->past);
  std::erase_if(streams, [](const auto& stream) { return stream->destroyed && stream->work.empty(); });
  if (std::ranges::all_of(streams, [](const auto& stream) { return stream->work.empty(); })) return;
  const OnDevice scope;
  Waiting waiting;
  while (std::ranges::any_of(streams, [](const auto& stream) { return !stream->work.empty(); }))
    if (!advance_any()) waiting.wait();
}

std::size_t calls_until_broken = 0;  // 0: no call fails

// For functions that wait or may wait. CUDA refuses them to a capturing thread, as captured work does not
// run.
void expect_no_capture(const char* function) {
  if (captures > 0) throw Report(std::string(function) + ": not while this thread captures a stream's work");
}

// For work that a GPU can capture, but not this device.
void expect_uncaptured(const char* what, cudaStream_t stream) {
  if (of(stream).captured) throw Report(std::string(what) + " is captured, which this device does not do");
}

// Runs a call of the host under the lock; an exception becomes a report.
template <class Body>
cudaError_t call_that_succeeds(Body&& body) {
  const std::lock_guard lock(mutex);
  try {
    body();
  } catch (const std::exception& error) {
    complain(error.what());
  }
  return status();
}

template <class Body>
cudaError_t call(Body&& body) {
  return call_that_succeeds([&] {
    count_call();
    body();
  });
}

std::size_t hash(const void* memory, std::size_t bytes) {
  return std::hash<std::string_view>()({static_cast<const char*>(memory), bytes});
}

// ---- Copies: the host must not touch their memory before they have run

struct HostRange {
  const void* begin;
  std::size_t bytes;
};
// Destinations of copies that have not run.
auto& awaited = *new std::vector<HostRange>;

bool is_awaited(const void* memory, std::size_t bytes) {
  return std::ranges::any_of(awaited, [&](const HostRange& range) {
    return address(memory) < address(range.begin) + range.bytes &&
           address(range.begin) < address(memory) + bytes;
  });
}

void queue_copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (bytes == 0) return;
  if (kind == cudaMemcpyDefault) {
    const bool from_device = in_device_memory(address(from)), to_device = in_device_memory(address(to));
    kind = from_device ? (to_device ? cudaMemcpyDeviceToDevice : cudaMemcpyDeviceToHost)
                       : (to_device ? cudaMemcpyHostToDevice : cudaMemcpyHostToHost);
  }
  const bool from_host = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyHostToHost,
             to_host = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyHostToHost;
  if (from_host == in_device_memory(address(from)) || to_host == in_device_memory(address(to)))
    throw Report("cudaMemcpy: a side is not where the kind of copy says: this is not device memory, or is");
  if (!from_host) expect_device(from, bytes, "cudaMemcpy from");
  if (!to_host) expect_device(to, bytes, "cudaMemcpy to");
  if (from_host || to_host) expect_uncaptured("a copy from or to the host", stream);
  const bool pageable = from_host != to_host && !in_pinned_memory(address(from_host ? from : to), bytes);
  // Memory that another copy has still to write has no value yet to compare with.
  const bool compare_from = from_host && !is_awaited(from, bytes);
  const bool compare_to = to_host && !is_awaited(to, bytes);
  const std::size_t before = compare_from ? hash(from, bytes) : 0;
  if (to_host) {
    std::memset(to, kPoison, bytes);
    awaited.push_back({to, bytes});
  }
  enqueue(stream, "a copy", [=](std::uint32_t) {
    if (!from_host) expect_device(from, bytes, "cudaMemcpy from");
    if (!to_host) expect_device(to, bytes, "cudaMemcpy to");
    if (compare_from && hash(from, bytes) != before)
      throw Report("cudaMemcpyAsync: the host's memory was changed before it had been copied");
    if (to_host) {
      awaited.erase(std::ranges::find(awaited, to, &HostRange::begin));
      const auto* const now = static_cast<const unsigned char*>(to);
      if (compare_to && !std::all_of(now, now + bytes, [](unsigned char byte) { return byte == kPoison; }))
        throw Report("cudaMemcpyAsync: the host wrote to memory before the copy to it had run");
    }
    if (!from_host) see_range(from, bytes, false);
    if (!to_host) see_range(to, bytes, true);
    std::memmove(to, from, bytes);
    ++counts.copies;
    counts.pageable_copies += pageable;
    counts.copied_bytes += bytes;
    return true;
  });
}

}  // namespace

void queue_shared(cudaStream_t stream, const std::string& name, std::shared_ptr<SharedWork> work) {
  enqueue(
      stream, name, [work](std::uint32_t) { return work->advance(); }, work);
}

bool go_on() {
  const std::unique_lock lock(mutex, std::try_to_lock);
  if (!queues || !lock) return false;
  const OnDevice scope;
  return advance_any();
}

void set_patience(std::chrono::milliseconds most) { patience = most; }

void set_devices(int count, int error, int driver_version) {
  device_count = count;
  driver = driver_version;
  device_error = static_cast<cudaError_t>(error);
}

void set_device_errors(const DeviceErrors& errors) { device_errors = errors; }

void set_bus_id(const std::string& id) { bus_id = id; }

Counters counters() {
  const std::lock_guard lock(mutex);
  return counts;
}

void set_shared_memory(std::size_t bytes) {
  const std::lock_guard lock(mutex);
  shared_limit = std::min(bytes, kMostShared);
}

void break_at(std::size_t call) {
  const std::lock_guard lock(mutex);
  calls_until_broken = call;
}

void queue(cudaStream_t stream, const std::string& name, std::function<void(std::uint32_t)> run) {
  enqueue(stream, name, [run = std::move(run)](std::uint32_t number) {
    run(number);
    return true;
  });
}

void count_call() {
  if (calls_until_broken > 0 && --calls_until_broken == 0) throw Report("the device broke, as planned");
}

void complain(const std::string& what) { report += (report.empty() ? "" : "; ") + what; }

const std::string& report_so_far() { return report; }

std::string take_report() {
  const std::lock_guard lock(mutex);
  drain_all();
  awaited.clear();  // copies that a report kept from running
  return std::exchange(report, {});
}

cudaError_t queue_kernel(const cudaLaunchConfig_t& config, const void* kernel,
                         std::unique_ptr<const KernelCall> call) {
  const std::lock_guard lock(mutex);
  const auto& [x, y, z] = config.blockDim;
  const dim3& grid = config.gridDim;
  if (x == 0 || y == 0 || z == 0 || std::size_t{x} * y * z > 1024 || z > 64 || grid.x == 0 || grid.y == 0 ||
      grid.z == 0 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535)
    return refuse(cudaErrorInvalidConfiguration);
  const std::string name = mangled_name(kernel);
  const auto allowed = allowed_shared.find(kernel);
  const std::size_t most = allowed == allowed_shared.end() ? 0 : allowed->second;
  const std::size_t own = static_shared_bytes(name), dynamic = config.dynamicSmemBytes;
  if ((own + dynamic + kSharedOfFunctions > kStaticShared && dynamic > most) || own + dynamic > shared_limit)
    return refuse(cudaErrorInvalidValue);
  // A shared_ptr, because std::function must be copyable.
  return conclave::emulator::call([&, shared = std::shared_ptr<const KernelCall>(std::move(call))] {
    queue(config.stream, "kernel " + readable_name(name),
          [config, name, shared](std::uint32_t number) { run_grid(config, *shared, name, number); });
  });
}

cudaError_t allow_shared(const void* kernel, int bytes) {
  const std::lock_guard lock(mutex);
  if (bytes < 0 || static_shared_bytes(mangled_name(kernel)) + static_cast<std::size_t>(bytes) > shared_limit)
    return refuse(cudaErrorInvalidValue);
  allowed_shared[kernel] = static_cast<std::size_t>(bytes);
  return status();
}

}  // namespace conclave::emulator

// ---- CUDA's functions

using namespace conclave::emulator;

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorStubLibrary:
      return "CUDA driver is a stub library";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorLaunchFailure:
      break;
  }
  return report.empty() ? "unspecified launch failure" : report.c_str();
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorStubLibrary:
      return "cudaErrorStubLibrary";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorLaunchFailure:
      break;
  }
  return "cudaErrorLaunchFailure";
}

cudaError_t cudaPeekAtLastError() {
  const std::lock_guard lock(mutex);
  return report.empty() ? last_error : cudaErrorLaunchFailure;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = driver;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = device_count;
  return device_error;
}

cudaError_t cudaDeviceGetPCIBusId(char* id, int bytes, int device) {
  if (device_errors.bus_id) return refuse(static_cast<cudaError_t>(device_errors.bus_id));
  if (device < 0 || device >= device_count) return refuse(cudaErrorInvalidDevice);
  const std::string text = bus_id.empty() ? "process " + std::to_string(getpid()) : bus_id;
  if (static_cast<int>(text.size()) >= bytes) return refuse(cudaErrorInvalidValue);
  std::strcpy(id, text.c_str());
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device_errors.set_device) return refuse(static_cast<cudaError_t>(device_errors.set_device));
  return device >= 0 && device < device_count ? cudaSuccess : refuse(cudaErrorInvalidDevice);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device != 0) return refuse(cudaErrorInvalidDevice);
  const std::lock_guard lock(mutex);
  *properties = {};
  std::strcpy(properties->name, "emulated device");
  properties->totalGlobalMem = free_and_total().second;
  properties->sharedMemPerBlock = kStaticShared;
  properties->sharedMemPerBlockOptin = shared_limit;
  properties->warpSize = static_cast<int>(kWarp);
  properties->maxThreadsPerBlock = 1024;
  properties->major = 9;
  properties->multiProcessorCount = 4;  // few, so that grid-stride loops run more than once
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, device);
  if (error != cudaSuccess) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = properties.maxThreadsPerBlock;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      break;
  }
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  const std::lock_guard lock(mutex);
  if (device_errors.memory) return refuse(static_cast<cudaError_t>(device_errors.memory));
  std::tie(*free, *total) = free_and_total();
  return status();
}

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  cudaError_t error = cudaSuccess;
  const cudaError_t broken = call([&] {
    expect_no_capture("cudaMalloc");
    error = allocate(memory, bytes);
  });
  return broken != cudaSuccess || error == cudaSuccess ? broken : refuse(error);
}

cudaError_t cudaFree(void* memory) {
  return call_that_succeeds([&] {
    if (!memory) return;
    expect_no_capture("cudaFree");
    drain_all();
    release(memory);
  });
}

cudaError_t cudaMallocHost(void** memory, std::size_t bytes) {
  cudaError_t error = cudaSuccess;
  const cudaError_t broken = call([&] {
    expect_no_capture("cudaMallocHost");
    error = allocate_pinned(memory, bytes);
  });
  return broken != cudaSuccess || error == cudaSuccess ? broken : refuse(error);
}

cudaError_t cudaHostAlloc(void** memory, std::size_t bytes, unsigned) {
  return cudaMallocHost(memory, bytes);
}

cudaError_t cudaFreeHost(void* memory) {
  return call_that_succeeds([&] {
    expect_no_capture("cudaFreeHost");
    drain_all();
    release_pinned(memory);
  });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return call([&] { queue_copy(to, from, bytes, kind, stream); });
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t stream) {
  return call([&] {
    if (bytes == 0) return;
    expect_device(memory, bytes, "cudaMemset");
    enqueue(stream, "a fill", [=](std::uint32_t) {
      expect_device(memory, bytes, "cudaMemset");
      see_range(memory, bytes, true);
      std::memset(memory, value, bytes);
      return true;
    });
  });
}

cudaError_t cudaMemset(void* memory, int value, std::size_t bytes) {
  return cudaMemsetAsync(memory, value, bytes, nullptr);  // asynchronous, as CUDA's is
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return call([&] {
    *stream = new CUstream_st;
    (*stream)->stream->number = stream_count++;
    streams.push_back((*stream)->stream);
  });
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return call_that_succeeds([&] {
    expect_uncaptured("the end of a stream", stream);
    of(stream).destroyed = true;
    destroyed_handles.push_back(stream);
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return call([&] {
    expect_no_capture("cudaStreamSynchronize");
    const std::shared_ptr<Stream> kept = owner_of(stream);
    join(past_of_host, kept->past);
    drain(*kept, kept->queued);
  });
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  bool ready = true;
  const cudaError_t error = call([&] {
    expect_no_capture("cudaStreamQuery");
    Stream& asked = of(stream);
    ready = asked.work.empty();
    if (ready)
      join(past_of_host, asked.past);
    else
      nudge(asked);
  });
  return ready ? error : cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return call([&] {
    expect_uncaptured("a wait for an event", stream);
    if (!event->mark) return;
    join(of(stream).past, event->mark->past);
    enqueue(stream, "", [mark = event->mark](std::uint32_t) {
      while (mark->stream->done < mark->ticket)
        if (!advance(*mark->stream)) return false;
      return true;
    });
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return call([&] {
    *event = new CUevent_st{.timed = (flags & cudaEventDisableTiming) == 0, .mark = {}};
    ++counts.events;
  });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const std::lock_guard lock(mutex);
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return call([&] {
    expect_uncaptured("an event", stream);
    const auto mark = std::make_shared<Mark>();
    enqueue(stream, "", [mark](std::uint32_t) {
      mark->passed = Clock::now();
      return true;
    });
    mark->stream = owner_of(stream);
    mark->ticket = mark->stream->queued;
    mark->past = mark->stream->past;
    event->mark = mark;
  });
}

// Each query runs a piece of work, so a loop of queries ends. A thread that has queued no work only observes:
// its queries run nothing and do not wait for the lock.
cudaError_t cudaEventQuery(cudaEvent_t event) {
  std::unique_lock lock(mutex, std::defer_lock);
  if (!queues) {
    if (!lock.try_lock()) return cudaErrorNotReady;
    return event->mark && event->mark->stream->done < event->mark->ticket ? cudaErrorNotReady : status();
  }
  lock.lock();
  if (const cudaError_t broken = call([] { expect_no_capture("cudaEventQuery"); }); broken != cudaSuccess)
    return broken;
  if (!event->mark) return status();
  if (event->mark->stream->done >= event->mark->ticket) {
    join(past_of_host, event->mark->past);
    return status();
  }
  nudge(*event->mark->stream);
  return cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return call([&] {
    expect_no_capture("cudaEventSynchronize");
    if (!event->mark) return;
    join(past_of_host, event->mark->past);
    drain(*event->mark->stream, event->mark->ticket);
  });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  const std::lock_guard lock(mutex);
  for (const cudaEvent_t event : {begin, end}) {
    if (!event->timed) return refuse(cudaErrorInvalidResourceHandle);
    if (!event->mark) return refuse(cudaErrorInvalidValue);
    if (event->mark->stream->done < event->mark->ticket) return refuse(cudaErrorNotReady);
  }
  *milliseconds = std::chrono::duration<float, std::milli>(end->mark->passed - begin->mark->passed).count();
  return status();
}

cudaError_t cudaDeviceSynchronize() {
  return call([] {
    expect_no_capture("cudaDeviceSynchronize");
    drain_all();
  });
}

// In every mode, a capture restricts the calls of this thread only; other threads may wait and allocate.
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (!stream) return refuse(cudaErrorStreamCaptureUnsupported);
  return call([&] {
    Stream& from = of(stream);
    if (from.captured) throw Report("cudaStreamBeginCapture: this stream's work is being captured");
    from.captured.emplace();
    ++captures;
    ++counts.captures;
  });
}

// Ends the capture in any case. After a report there is no graph.
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  return call_that_succeeds([&] {
    Stream& from = of(stream);
    if (!from.captured) throw Report("cudaStreamEndCapture: this stream's work is not being captured");
    auto captured = std::exchange(from.captured, std::nullopt);
    --captures;
    count_call();
    if (report.empty()) *graph = new CUgraph_st{std::move(*captured)};
  });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  return call([&] { *executable = new CUgraphExec_st{.work = graph->work}; });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  return call([&] {
    if (executable->destroyed) throw Report("a graph is launched that was destroyed");
    expect_uncaptured("a graph", stream);
    for (const Captured& work : executable->work) enqueue(stream, work.name, work.run);
    ++counts.graphs;
  });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const std::lock_guard lock(mutex);
  delete graph;
  return cudaSuccess;
}

// Keeps the object, so that its use is detected.
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  const std::lock_guard lock(mutex);
  executable->destroyed = true;
  destroyed_graphs.push_back(executable);
  return cudaSuccess;
}
