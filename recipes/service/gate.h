// Lets work in, in the order of its coming, as long as what all of it takes together is within a bound. Only
// so much waits at it; more is refused, so that it does not end up with all threads.
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

  /// Waits until there is room, which is kept as long as this lives. What takes more than the bound is let in
  /// alone. Throws Refusal (503) where as many wait as may, or it is closed meanwhile.
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
      if (gate_.closed_) throw Refusal(503, "draining", "the service ended before it came to this");
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

  /// Nobody is let in any more.
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
