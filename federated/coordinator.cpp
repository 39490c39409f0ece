#include "federated/coordinator.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <chrono>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "federated/global_model.h"
#include "federated/service.h"

namespace conclave {
namespace {

// Held as long as the process lives, however it ends.
class DirectoryLock {
 public:
  explicit DirectoryLock(const std::string& directory)
      : descriptor_(::open((directory + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
    require(descriptor_ >= 0, "{}: cannot be written to", directory);
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0) return;
    ::close(descriptor_);
    fail("{}: another process is at work in this folder; end that one, or choose another folder", directory);
  }
  ~DirectoryLock() { ::close(descriptor_); }
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  int descriptor_;
};

std::string made(const std::string& directory) {
  std::filesystem::create_directories(directory);
  return directory;
}

}  // namespace

struct Coordinator::Parts {
  Parts(CoordinatorOptions given, const Kit& kit, AllowList allowed, Communicator& world, Say report)
      : options(std::move(given)),
        say(std::move(report)),
        lock(made(options.directory)),
        database(options.directory + "/rounds.sqlite"),
        board(options.directory, database),
        service(board, std::move(allowed), {.steps = options.local_steps, .proximal = 0}, say),
        writer(options.directory, world, static_cast<int>(options.keep), false) {
    std::vector<std::string> warnings;
    std::string newest = newest_checkpoint(options.directory, &warnings).value_or("");
    for (const std::string& warning : warnings) say("warning: skipped " + warning);
    const bool anew = newest.empty();
    if (anew) {
      require(!options.start.empty(), "{}: no checkpoint to go on from; give one to start with",
              options.directory);
      newest = options.start;
    }
    model.emplace(newest);
    if (anew) model->state().step = 0;
    round = model->state().step;
    if (anew) save();
    server = start_server(options.address, kit, service, port);
  }

  void save() {
    model->state().step = round;
    writer.save(model->entries(), model->state());
    const auto& outcome = writer.wait();
    require(outcome && outcome->saved,
            "the model after round {} could not be saved: {}; started again, the "
            "coordinator goes on with that round",
            round, outcome ? outcome->message : "");
  }

  RoundPlan plan() const {
    const std::string path = checkpoint_path(options.directory, round);
    return {round, options.rounds, path, digest_of(path), model->layout().elements};
  }

  CoordinatorOptions options;
  Say say;
  DirectoryLock lock;
  Database database;
  RoundBoard board;
  FederationService service;
  CheckpointWriter writer;
  std::optional<GlobalModel> model;
  std::int64_t round = 0;
  int port = 0;
  std::unique_ptr<grpc::Server> server;
};

Coordinator::Coordinator(CoordinatorOptions options, Kit kit, AllowList allowed, Communicator& world, Say say)
    : parts_(std::make_unique<Parts>(std::move(options), kit, std::move(allowed), world, std::move(say))) {}

Coordinator::~Coordinator() {
  parts_->board.stop();
  parts_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(2));
}

int Coordinator::port() const { return parts_->port; }

}  // namespace conclave
