// Fuzzes the messages between sites and a coordinator (federated/transport/message_trial.h).
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "core/error.h"
#include "federated/transport/message_trial.h"

namespace conclave {

inline void fuzz_transport(std::string_view bytes) {
  struct Folder {
    Folder() { require(mkdtemp(path.data()) != nullptr, "{}: cannot be made", path); }
    ~Folder() { std::filesystem::remove_all(path); }
    std::string path = (std::filesystem::temp_directory_path() / "conclave-messages-XXXXXX").string();
  };
  static Folder folder;
  static MessageTrial trial(folder.path);
  trial.run(bytes);
}

}  // namespace conclave
