// Lets work in, in the order of its coming, as long as what all of it takes together is within a bound.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace conclave::service {

class Gate {
 public:
  explicit Gate(std::int64_t most) : most_(most) {}

  /// Waits until there is room, which is kept as long as this lives. What takes more than the bound is let in
  /// alone.
  class Pass {
   public:
    Pass(Gate& gate, std::int64_t takes) : gate_(gate), takes_(std::min(takes, gate.most_)) {
      std::unique_lock lock(gate_.mutex_);
      const std::uint64_t turn = gate_.last_turn_++;
      gate_.changed_.wait(lock, [&] { return turn == gate_.turn_ && gate_.taken_ + takes_ <= gate_.most_; });
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

 private:
  const std::int64_t most_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t turn_ = 0, last_turn_ = 0;
  std::int64_t taken_ = 0;
};

}  // namespace conclave::service
