// Counts the memory allocations of a process by the place of the call; LD_PRELOAD puts this library before
// malloc. At its end, the process writes one line per place to the file $COUNT_ALLOCATIONS.RANK: count,
// module, offset in the module. The functions below may be called from anywhere, also before main, so they
// take no lock and call nothing that allocates.
#include <dlfcn.h>
#include <errno.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
}

namespace {

struct Place {
  std::atomic<void*> address;
  std::atomic<std::uint64_t> count;
  // Found at the first count: MPI's modules are gone when the process ends.
  std::ptrdiff_t offset;
  char module[224];
};
constexpr std::size_t kPlaces = std::size_t{1} << 16;  // a process has a few thousand
Place places[kPlaces];

void count(void* caller) {
  std::size_t at = reinterpret_cast<std::uintptr_t>(caller) * 0x9E3779B97F4A7C15u >> 48;
  for (std::size_t tries = 0; tries < kPlaces; ++tries, at = (at + 1) % kPlaces) {
    void* found = places[at].address.load(std::memory_order_relaxed);
    if (found == nullptr && places[at].address.compare_exchange_strong(found, caller)) {
      found = caller;
      Dl_info info{};
      if (dladdr(caller, &info) != 0) {
        places[at].offset = static_cast<char*>(caller) - static_cast<char*>(info.dli_fbase);
        std::strncpy(places[at].module, info.dli_fname, sizeof places[at].module - 1);
      }
    }
    if (found != caller) continue;
    places[at].count.fetch_add(1, std::memory_order_relaxed);
    return;
  }
}

void* or_throw(void* memory) {
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

__attribute__((destructor)) void report() {
  const char* path = std::getenv("COUNT_ALLOCATIONS");
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  if (path == nullptr) return;
  char name[4096];
  std::snprintf(name, sizeof name, "%s.%s", path, rank ? rank : "0");
  std::FILE* file = std::fopen(name, "w");
  if (file == nullptr) return;
  for (const Place& place : places)
    if (place.address.load() != nullptr)
      std::fprintf(file, "%llu %s %tx\n", static_cast<unsigned long long>(place.count.load()),
                   place.module[0] ? place.module : "?", place.offset);
  std::fclose(file);
}

}  // namespace

#define COUNT() count(__builtin_extract_return_addr(__builtin_return_address(0)))

extern "C" {
void* malloc(std::size_t size) {
  COUNT();
  return __libc_malloc(size);
}
void* calloc(std::size_t number, std::size_t size) {
  COUNT();
  return __libc_calloc(number, size);
}
void* realloc(void* old, std::size_t size) {
  COUNT();
  return __libc_realloc(old, size);
}
void* memalign(std::size_t alignment, std::size_t size) {
  COUNT();
  return __libc_memalign(alignment, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) {
  COUNT();
  return __libc_memalign(alignment, size);
}
char* strdup(const char* text) {  // counted at its caller
  COUNT();
  const std::size_t size = std::strlen(text) + 1;
  void* const copy = __libc_malloc(size);
  return copy == nullptr ? nullptr : static_cast<char*>(std::memcpy(copy, text, size));
}
int posix_memalign(void** memory, std::size_t alignment, std::size_t size) {
  COUNT();
  void* const got = __libc_memalign(alignment, size);
  if (got != nullptr) *memory = got;
  return got == nullptr ? ENOMEM : 0;
}
}

void* operator new(std::size_t size) {
  COUNT();
  return or_throw(__libc_malloc(size));
}
void* operator new[](std::size_t size) {
  COUNT();
  return or_throw(__libc_malloc(size));
}
void* operator new(std::size_t size, std::align_val_t alignment) {
  COUNT();
  return or_throw(__libc_memalign(static_cast<std::size_t>(alignment), size));
}
void* operator new[](std::size_t size, std::align_val_t alignment) {
  COUNT();
  return or_throw(__libc_memalign(static_cast<std::size_t>(alignment), size));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
