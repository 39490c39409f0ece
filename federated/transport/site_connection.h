// The connection by which the parts of a Site call the coordinator.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "federated/transport/site.h"
#include "federated/transport/stub.h"
#include "federated/transport/transport.h"

namespace conclave {

inline constexpr double kAnswerSeconds = 30;  // timeout of calls that are answered at once
// Pause after a call or an attempt that came to nothing. Without it, a coordinator could make a site repeat
// these, and log them, a thousand times a second.
inline constexpr std::chrono::seconds kIdlePause{1};

/// Text from others in a form that may be logged here: one line, of at most 500 characters.
inline std::string as_told(std::string_view text) {
  std::string line(text.substr(0, 500));
  std::ranges::replace_if(
      line, [](char c) { return (c >= 0 && c < ' ') || c == '\x7f'; }, ' ');
  return line;
}

struct Site::Connection {
  using Open = std::function<std::unique_ptr<Stub>()>;
  explicit Connection(Open how) : open(std::move(how)), stub(open()) {}

  Open open;
  std::unique_ptr<Stub> stub;

  void renew() { stub = open(); }
};

}  // namespace conclave
