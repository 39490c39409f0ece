#include "recipes/service/access_log.h"

#include <fmt/format.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/print_line.h"
#include "recipes/metrics/metrics_writer.h"

namespace conclave::service {

void AccessLog::note(const Entry& entry) {
  using Json = nlohmann::ordered_json;
  const Json json{{"time", seconds_since_1970()}, {"address", entry.address}, {"method", entry.method},
                  {"path", entry.path},           {"status", entry.status},   {"seconds", entry.seconds},
                  {"bytes_out", entry.bytes_out}};
  const std::string line = json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  const std::lock_guard lock(mutex_);
  const int reason = file_->append(line);
  if (reason == 0 || warned_) return;
  warned_ = true;
  warn(file_->path(), ": ", std::strerror(reason), "; requests are not logged");
}

void AccessLog::reopen() {
  AppendFile anew(file_->path());
  const std::lock_guard lock(mutex_);
  file_.emplace(std::move(anew));
  warned_ = false;
}

}  // namespace conclave::service
