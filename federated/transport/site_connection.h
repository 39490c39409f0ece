// What the parts of a Site call the coordinator by.
#pragma once

#include <functional>
#include <memory>

#include "federated/transport/site.h"
#include "federated/transport/stub.h"
#include "federated/transport/transport.h"

namespace conclave {

inline constexpr double kAnswerSeconds = 30;  // for a call that answers at once

struct Site::Connection {
  using Open = std::function<std::unique_ptr<Stub>()>;
  explicit Connection(Open how) : open(std::move(how)), stub(open()) {}

  Open open;
  std::unique_ptr<Stub> stub;

  void renew() { stub = open(); }
};

}  // namespace conclave
