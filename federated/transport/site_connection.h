// What the parts of a Site call the coordinator by.
#pragma once

#include "federated/transport/site.h"
#include "federated/transport/transport.h"
#include "protocol.grpc.pb.h"

namespace conclave {

inline constexpr double kAnswerSeconds = 30;  // for a call that answers at once

struct Site::Connection {
  std::string address;
  Kit kit;
  std::unique_ptr<federated::Federation::Stub> stub = {};

  void renew() { stub = federated::Federation::NewStub(open_channel(address, kit)); }
};

}  // namespace conclave
