// Fuzzes the messages between sites and a coordinator (tests/federated/transport/message_trial.h).
#pragma once

#include <string_view>

#include "tests/data/temporary_directory.h"
#include "tests/federated/transport/message_trial.h"

namespace conclave {

inline void fuzz_transport(std::string_view bytes) {
  static const TemporaryDirectory folder;
  static MessageTrial trial(folder.path());
  trial.run(bytes);
}

}  // namespace conclave
