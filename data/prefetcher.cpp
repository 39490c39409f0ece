#include "data/prefetcher.h"

#include <utility>

namespace conclave {

Prefetcher::Prefetcher(DynamicBatcher batcher, DataPosition start)
    : batcher_(std::move(batcher)), position_(start), thread_([this] { work(); }) {}

Prefetcher::~Prefetcher() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Prefetcher::work() {
  bool reserved = false;
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || state_ == State::empty; });
    if (stop_) return;
    state_ = State::filling;
    Batch& batch = buffers_[1 - current_];
    const DataPosition position = position_;
    lock.unlock();
    std::exception_ptr error;
    try {
      if (!std::exchange(reserved, true))
        for (Batch& buffer : buffers_) batcher_.reserve(buffer);  // so that no training step has to allocate
      batcher_.fill(position, batch);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    error_ = error;
    state_ = error ? State::failed : State::full;
    changed_.notify_all();
  }
}

const Batch& Prefetcher::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return state_ == State::full || state_ == State::failed; });
  if (state_ == State::failed) std::rethrow_exception(error_);
  current_ = 1 - current_;
  position_ = buffers_[current_].next;
  state_ = State::empty;
  changed_.notify_all();
  return buffers_[current_];
}

void Prefetcher::seek(DataPosition position) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return state_ != State::filling; });
  position_ = position;
  state_ = State::empty;
  error_ = nullptr;
  changed_.notify_all();
}

}  // namespace conclave
