// The MPI calls that wait for other processes. A GPU works on while its host waits in one of them, and
// another process may depend on that. So the emulated device, too, runs work during these calls, as far as
// another process has begun an operation that needs it.
#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

#include <thread>

#include "tests/cuda_emulator/internal.h"

namespace conclave::emulator {
namespace {

template <class Test>
int go_on_until(Test&& test) {
  for (;;) {
    int done = 0;
    const int code = test(&done);
    if (code != MPI_SUCCESS || done) return code;
    if (!help_peers()) std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

int await(int code, MPI_Request& request) {
  return code == MPI_SUCCESS ? MPI_Wait(&request, MPI_STATUS_IGNORE) : code;
}

}  // namespace
}  // namespace conclave::emulator

using namespace conclave::emulator;

extern "C" {

int MPI_Wait(MPI_Request* request, MPI_Status* status) {
  return go_on_until([&](int* done) { return PMPI_Test(request, done, status); });
}

int MPI_Waitall(int count, MPI_Request requests[], MPI_Status statuses[]) {
  return go_on_until([&](int* done) { return PMPI_Testall(count, requests, done, statuses); });
}

int MPI_Barrier(MPI_Comm comm) {
  MPI_Request request;
  return await(PMPI_Ibarrier(comm, &request), request);
}

int MPI_Bcast(void* values, int count, MPI_Datatype type, int root, MPI_Comm comm) {
  MPI_Request request;
  return await(PMPI_Ibcast(values, count, type, root, comm, &request), request);
}

int MPI_Allreduce(const void* send, void* receive, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm) {
  MPI_Request request;
  return await(PMPI_Iallreduce(send, receive, count, type, op, comm, &request), request);
}

int MPI_Allgather(const void* send, int send_count, MPI_Datatype send_type, void* receive, int receive_count,
                  MPI_Datatype receive_type, MPI_Comm comm) {
  MPI_Request request;
  return await(
      PMPI_Iallgather(send, send_count, send_type, receive, receive_count, receive_type, comm, &request),
      request);
}

int MPI_Alltoallv(const void* send, const int send_counts[], const int send_offsets[], MPI_Datatype send_type,
                  void* receive, const int receive_counts[], const int receive_offsets[],
                  MPI_Datatype receive_type, MPI_Comm comm) {
  MPI_Request request;
  return await(PMPI_Ialltoallv(send, send_counts, send_offsets, send_type, receive, receive_counts,
                               receive_offsets, receive_type, comm, &request),
               request);
}

// MPI has no non-blocking form of this call. After the barrier all processes have arrived, so it does not
// wait.
int MPI_Comm_split(MPI_Comm comm, int colour, int key, MPI_Comm* part) {
  const int code = MPI_Barrier(comm);
  return code == MPI_SUCCESS ? PMPI_Comm_split(comm, colour, key, part) : code;
}

// Writes the counts of a coverage build, which the end of the process would lose; null in other builds.
[[gnu::weak]] void __gcov_dump();

int MPI_Abort(MPI_Comm comm, int code) {
  if (__gcov_dump) __gcov_dump();
  return PMPI_Abort(comm, code);
}

}  // extern "C"
