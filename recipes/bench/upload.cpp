// Compares the upload of a site's update to the coordinator with a plain gRPC stream of as many bytes, in
// chunks of the same size, over the same kind of connection.
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>

#include "core/error.h"
#include "federated/transport/upload_trial.h"
#include "recipes/bench/bench.h"

namespace conclave::bench {

void upload(std::int64_t repetitions) {
  constexpr std::uint64_t kElements = 100'000'000;
  std::string folder = (std::filesystem::temp_directory_path() / "conclave-upload-XXXXXX").string();
  require(mkdtemp(folder.data()) != nullptr, "{}: cannot be made", folder);
  {
    UploadTrial trial(folder, kElements);
    const Comparison time =
        compare([&] { trial.deliver(); }, [&] { trial.stream(); }, repetitions, [&] { trial.open_round(); });
    const double gigabytes = 4e-9 * static_cast<double>(kElements);
    print_figure("an update of 400 MB over mutual TLS, of a bare stream's speed",
                 fmt::format("{:.2f} GB/s against {:.2f}: {:.0f}%", gigabytes / time.subject,
                             gigabytes / time.reference, 100 * time.ratio),
                 0.9);
  }
  std::filesystem::remove_all(folder);
}

}  // namespace conclave::bench
