// A counting semaphore that serves in order of arrival: it admits work while the sum of what all admitted
// work takes stays within a bound. The number of waiting threads is limited, so that they cannot be all
// threads of the service; beyond that number, work is refused.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "recipes/service/query.h"

namespace conclave::service {

class Gate {
 public:
  Gate(std::int64_t most, std::size_t waiting) : most_(most), most_waiting_(waiting) {}

  /// Waits until there is room and holds that room until it is destroyed. Work that takes more than the bound
  /// is admitted alone. Throws Refusal (503) where too many wait, or where the gate is closed meanwhile.
  class Pass {
   public:
    Pass(Gate& gate, std::int64_t takes) : gate_(gate), takes_(std::min(takes, gate.most_)) {
      std::unique_lock lock(gate_.mutex_);
      const std::uint64_t turn = gate_.last_turn_;
      const auto is_let_in = [&] { return turn == gate_.turn_ && gate_.taken_ + takes_ <= gate_.most_; };
      if (!gate_.closed_ && !is_let_in() && turn - gate_.turn_ >= gate_.most_waiting_)
        throw Refusal(503, "busy", "too many images wait to be read; try again");
      ++gate_.last_turn_;
      gate_.changed_.wait(lock, [&] { return gate_.closed_ || is_let_in(); });
      if (gate_.closed_) throw Refusal(503, "draining", "the service ended before it answered this");
      ++gate_.turn_;
      gate_.taken_ += takes_;
      gate_.changed_.notify_all();
    }
    ~Pass() {
      const std::lock_guard lock(gate_.mutex_);
      gate_.taken_ -= takes_;
      gate_.changed_.notify_all();
    }
    Pass(const Pass&) = delete;
    Pass& operator=(const Pass&) = delete;

   private:
    Gate& gate_;
    const std::int64_t takes_;
  };

  /// How many passes wait for room at an open gate.
  std::size_t waiting() {
    const std::lock_guard lock(mutex_);
    return last_turn_ - turn_;
  }

  /// Admits nothing more; waiting passes throw.
  void close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }

 private:
  const std::int64_t most_;
  const std::size_t most_waiting_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t turn_ = 0, last_turn_ = 0;
  std::int64_t taken_ = 0;
  bool closed_ = false;
};

}  // namespace conclave::service
