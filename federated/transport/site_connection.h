// What the parts of a Site call the coordinator by.
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

inline constexpr double kAnswerSeconds = 30;  // for a call that answers at once
// After what came to nothing: no coordinator has a site do it, and say so, a thousand times a second.
inline constexpr std::chrono::seconds kIdlePause{1};

/// What others say, as it may be in this site's log: in one line that has an end.
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
