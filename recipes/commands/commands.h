// The command line's verbs, one file each. Each returns the process's exit status: 0, or where it says so 1
// (done, but not all of it succeeded), or 130 (ended by a signal in good order). Other failures are
// exceptions, of which run_command_line() makes a message and a status: RecipeError 2, all else 1.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "federated/privacy/accountant.h"
#include "parallel/device_world.h"
#include "recipes/inference/caption_writer.h"
#include "recipes/inference/image_sampler.h"
#include "recipes/service/http_service.h"
#include "recipes/service/load.h"
#include "recipes/training/trainer.h"

namespace conclave::commands {

/// What the commands use of the process's surroundings; read once, in main.
struct ProcessEnvironment {
  std::string cache_directory;
  std::string host;
  bool omp_threads_given = false;  ///< OMP_NUM_THREADS is set: a recipe's threads = 0 keeps it
  const char* no_color = nullptr;
  const char* term = nullptr;
  const std::atomic<bool>* interrupted = nullptr;
  std::atomic<bool>* hung_up = nullptr;  ///< set by SIGHUP: a service then reloads its files
  bool ignores_hang_up = false;          ///< SIGHUP is to be ignored, as by nohup
  int ranks = 1;                         ///< that mpirun has started, as it reports them

  bool is_interrupted() const { return interrupted && *interrupted; }
  /// True once for each SIGHUP.
  bool takes_hang_up() const { return hung_up && hung_up->exchange(false); }
};

struct TrainArguments {
  std::string recipe;
  std::vector<std::string> overrides;
  std::string resume;
  std::string device = "auto";  ///< see world_on() in parallel/device_world.h
};
/// 130 after a signal, once the step is saved; 1 if the last checkpoint could not be saved.
int train(const TrainArguments& arguments, const ProcessEnvironment& surroundings, const MpiSession& session);

struct EvaluateArguments {
  std::string checkpoint;
  std::string split = "test";
  std::string data;      ///< a table of which all rows are evaluated; "": the split
  std::string task;      ///< "": the model's first
  bool classes = false;  ///< report each class
  bool int8 = false;     ///< with integers, even if it was not trained for them
  std::vector<std::string> overrides;
  std::string device = "auto";
};
int evaluate(const EvaluateArguments& arguments, const ProcessEnvironment& surroundings,
             const MpiSession& session);

struct QuantizeArguments {
  std::string checkpoint;
  std::string out;            ///< folder
  std::int64_t batches = 64;  ///< of training examples, to learn ranges from
  std::vector<std::string> overrides;
};
int quantize(const QuantizeArguments& arguments, const ProcessEnvironment& surroundings,
             const MpiSession& session);

struct PredictArguments {
  std::string checkpoint;
  std::vector<std::string> texts, images;  ///< pairs; if both are empty, lines of standard input
  std::int64_t top = 3;
  std::vector<std::string> overrides;
  std::string device = "auto";
};
/// 1 if an example of several could not be read, such as a missing image; the others are answered.
int predict(const PredictArguments& arguments, const ProcessEnvironment& surroundings,
            const MpiSession& session);

struct GenerateArguments {
  std::string checkpoint;
  std::vector<std::string> texts;  ///< empty: the names of all classes
  std::int64_t count = 16;         ///< images for each text
  std::string out = "generated.png";
  SamplerOptions options;
  std::int64_t scale = 2;
  std::string judge;  ///< checkpoint of a classifier; "": no judge
  std::vector<std::string> overrides;
  std::string device = "auto";
};
int generate(const GenerateArguments& arguments, const ProcessEnvironment& surroundings,
             const MpiSession& session);

struct CaptionArguments {
  std::string checkpoint;
  std::vector<std::string> images;  ///< files; empty: those of a split
  std::string split;                ///< "": no split
  CaptionOptions options;
  std::vector<std::string> overrides;
  std::string device = "auto";
};
int caption(const CaptionArguments& arguments, const ProcessEnvironment& surroundings,
            const MpiSession& session);

struct ServeArguments {
  std::string checkpoint;
  std::vector<std::string> tasks;  ///< empty: all that the model has
  service::HttpOptions http;
  service::BatchLimits limits;
  std::string token_file;  ///< "": requests need no token
  /// Bytes of a request's body. Default: 16 MiB, or 1 MiB for a model without images, whose texts have 64 KiB
  /// at most.
  std::optional<std::size_t> max_body;
  std::vector<std::string> overrides;
  std::string device = "auto";
};
/// Runs until a signal ends it. 0 then, or 1 if connections were cut off before they had their answer.
int serve(const ServeArguments& arguments, const ProcessEnvironment& surroundings, const MpiSession& session);

struct LoadArguments {
  std::vector<std::string> urls;  ///< of services, asked in turn
  service::LoadOptions options;   ///< all but the following
  std::optional<int> clients;     ///< default: 1, or 256 in an open loop
  std::string task{name_of(TaskKind::classify)};
  std::string texts;                     ///< file with a text in each line; "": random texts, or images alone
  std::vector<std::string> images = {};  ///< files; each request has one of them
  std::int64_t words = 128;              ///< in random texts
  bool saturates = false;                ///< find the highest rate of answers within a time limit
  std::string token_file;
};
int load_service(const LoadArguments& arguments);

struct InspectArguments {
  std::string checkpoint;
  bool tensors = false, recipe = false, verify = false;
};
int inspect(const InspectArguments& arguments);

struct ExpertsArguments {
  std::string checkpoint;
  std::string split = "validation";
  std::string out;  ///< folder for the pictures; "": the checkpoint's
  std::vector<std::string> overrides;
};
/// inspect --experts
int inspect_experts(const ExpertsArguments& arguments, const ProcessEnvironment& surroundings,
                    const MpiSession& session);

struct CostArguments {
  std::string path;         ///< of a checkpoint, a folder with some, or a recipe (*.toml)
  std::int64_t length = 0;  ///< tokens of the text; 0: the longest
  std::vector<std::string> overrides;
};
/// inspect --cost
int inspect_cost(const CostArguments& arguments, const ProcessEnvironment& surroundings,
                 const MpiSession& session);

struct ExportArguments {
  std::string checkpoint, output;
  std::string format = {};                  ///< "hdf5", "safetensors" or "onnx"; "": by the output's name
  std::vector<std::string> overrides = {};  ///< for the recipe of an onnx export
};
/// The format; "" if neither the option nor the name says.
std::string export_format(const ExportArguments& arguments);
/// Exports as hdf5 or safetensors. It does not start MPI, which may lack the memory or disk space that it
/// needs.
int export_weights(const ExportArguments& arguments, const ProcessEnvironment& surroundings);
/// Exports as onnx.
int export_graph(const ExportArguments& arguments, const ProcessEnvironment& surroundings,
                 const MpiSession& session);

struct BenchArguments {
  std::vector<std::string> names;  ///< none: all
  std::int64_t repetitions = 5;
  std::string checkpoint = {};              ///< the model to measure, for benchmarks that need one
  std::vector<std::string> overrides = {};  ///< of its recipe
};
/// The names of the benchmarks, as a sentence lists them.
std::string bench_names();
int bench(const BenchArguments& arguments, const ProcessEnvironment& surroundings, const MpiSession& session);

struct ProvisionArguments {
  std::string federation;
  std::vector<std::string> renew, revoke;  ///< sites
  std::vector<std::string> requests;       ///< files: sites' requests for certificates
  std::vector<std::string> key_sha256;     ///< of the keys that the requests must be for
  std::vector<std::string> overrides;
};
int federate_provision(const ProvisionArguments& arguments);

struct RequestArguments {
  std::string site;
  std::string out;  ///< folder; "": named as the site
};
int federate_request(const RequestArguments& arguments);

struct InitializeArguments {
  std::string recipe;
  std::string out = "runs/start";
  std::vector<std::string> overrides;
};
int federate_initialize(const InitializeArguments& arguments, const ProcessEnvironment& surroundings,
                        const MpiSession& session);

struct CoordinatorArguments {
  std::string federation;
  std::vector<std::string> overrides;
};
/// 130 after a signal; started again, it goes on.
int federate_coordinator(const CoordinatorArguments& arguments, const ProcessEnvironment& surroundings,
                         const MpiSession& session);

struct SiteArguments {
  std::string site;
  std::vector<std::string> overrides;
  std::string device = "auto";
};
/// 130 after a signal; started again, it goes on.
int federate_site(const SiteArguments& arguments, const ProcessEnvironment& surroundings,
                  const MpiSession& session);

struct SimulateArguments {
  std::string simulation;
  std::vector<std::string> overrides;  ///< of the simulation, and of its recipe
};
/// 130 after a signal, once the model is saved.
int federate_simulate(const SimulateArguments& arguments, const ProcessEnvironment& surroundings,
                      const MpiSession& session);

struct StatusArguments {
  std::string directory;  ///< of a coordinator that is running, or was
};
int federate_status(const StatusArguments& arguments);

struct AuditArguments {
  std::string transcript;  ///< the file, or the coordinator's folder
  std::string head;        ///< expected head; "": any
};
int federate_audit(const AuditArguments& arguments);

struct PrivacyArguments {
  double noise = 0, rate = 1;
  std::int64_t steps = 1;
  double epsilon = 0, delta = 0;
  std::string accountant =
      std::string(kAccountant);  ///< see make_accountant() in federated/privacy/accountant.h
};
/// Each prints the value it is named after, computed from the others.
int privacy_epsilon(const PrivacyArguments& arguments);
int privacy_noise(const PrivacyArguments& arguments);
int privacy_steps(const PrivacyArguments& arguments);

struct RecipeArguments {
  std::string recipe;  ///< also of a federation, a site or a simulation
  std::vector<std::string> overrides;
  std::int64_t ranks = 0;   ///< check: number of ranks that will run it; 0: any
  bool documented = false;  ///< show: with the meaning of each key
};
int recipe_check(const RecipeArguments& arguments);
int recipe_show(const RecipeArguments& arguments);

/// Prints a line on standard output, with the time of day. A line that cannot be written is lost.
void say(const std::string& text) noexcept;

/// Collective. All ranks, for `device`. Rank 0 prints why they compute on CPUs where they might use CUDA
/// devices.
DeviceWorld world_for(const std::string& device, const MpiSession& session);

/// Collective. Prepares the ranks for `recipe`, of the file `name`: checks that they can run it, loads its
/// plug-ins, sets its threads, and divides the ranks as it says. Throws RecipeError, and what load_plugins()
/// throws.
ProcessGrid grid_for(Recipe& recipe, const std::string& name, const ProcessEnvironment& surroundings,
                     std::unique_ptr<Communicator> world);

/// What a Trainer needs of the surroundings; its progress goes to standard error.
TrainerEnvironment trainer_environment(const ProcessEnvironment& surroundings, std::string resume = "");

/// Sets OpenMP's threads: `requested` or, where that is 0, this machine's cores divided among its ranks.
void set_threads(std::int64_t requested, const ProcessEnvironment& surroundings, Communicator& world);

}  // namespace conclave::commands
