// Signal handlers may only set a flag, and wake no thread: a thread has to look at the flag from time to
// time.
#pragma once

#include <chrono>
#include <stop_token>
#include <thread>
#include <utility>

namespace conclave {

/// A thread that calls `look` at once, and then after every `pause` until it returns false or the jthread
/// ends. `look` must not throw.
template <class Look>
std::jthread polling(std::chrono::milliseconds pause, Look look) {
  return std::jthread([pause, look = std::move(look)](const std::stop_token& stopped) {
    while (!stopped.stop_requested() && look()) std::this_thread::sleep_for(pause);
  });
}

}  // namespace conclave
