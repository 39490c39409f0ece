// What the parts of a Site call the coordinator by.
#pragma once

#include <functional>
#include <memory>

#include "federated/transport/site.h"
#include "federated/transport/transport.h"
#include "protocol.grpc.pb.h"

namespace conclave {

inline constexpr double kAnswerSeconds = 30;  // for a call that answers at once

struct Site::Connection {
  using Stub = std::unique_ptr<federated::Federation::StubInterface>;
  explicit Connection(std::function<Stub()> how) : open(std::move(how)), stub(open()) {}

  std::function<Stub()> open;
  Stub stub;

  void renew() { stub = open(); }
};

}  // namespace conclave
