// The command line: what it accepts, and how an error becomes a message and an exit status. Statuses: 0 done,
// 1 failed, 2 a mistake in the recipe or on the command line, 130 interrupted (after saving).
#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdlib>
#include <ranges>
#include <thread>

#include <unistd.h>

#include "core/memory.h"
#include "recipes/commands/commands.h"
#include "recipes/recipe.h"

namespace {

std::atomic<bool> interrupted{false};

// The first signal asks for an orderly end; a second one does what it always did.
void on_signal(int signal) {
  interrupted = true;
  std::signal(signal, SIG_DFL);
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

conclave::commands::Surroundings surroundings() {
  char host[256] = "localhost";
  gethostname(host, sizeof host - 1);
  std::string cache = environment("XDG_CACHE_HOME");
  if (cache.empty() && !environment("HOME").empty()) cache = environment("HOME") + "/.cache";
  return {.cache_directory = cache.empty() ? "" : cache + "/conclave",
          .host = host,
          .omp_threads_given = !environment("OMP_NUM_THREADS").empty(),
          .no_color = std::getenv("NO_COLOR"),
          .term = std::getenv("TERM"),
          .interrupted = &interrupted};
}

// Runs a command of one process.
int alone(const std::function<int()>& command) {
  try {
    return command();
  } catch (const conclave::RecipeError& error) {
    fmt::print(stderr, "conclave: {}\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    fmt::print(stderr, "conclave: {}\n", error.what());
    return 1;
  }
}

// What a recipe can do about an error, where that does not say it itself.
std::string with_advice(const std::exception& error) {
  if (!dynamic_cast<const conclave::OutOfMemory*>(&error)) return error.what();
  return std::string(error.what()) +
         "; lower train.batch_tokens, for which a higher train.accumulate makes up, make the model smaller, "
         "start more ranks, over which batches and experts are spread, or end what else takes the memory";
}

// Runs a command on all ranks. A mistake in the recipe is found by every rank alike, and all end in order;
// any other error may be one rank's alone, and the others would wait for it forever, so it ends them all.
int together(const std::function<int(const conclave::MpiSession&)>& command) {
  conclave::MpiSession session;
  int rank = 0, ranks = 1;
  try {
    rank = session.world()->rank();
    ranks = session.world()->size();
    return command(session);
  } catch (const conclave::RecipeError& error) {
    if (rank == 0) fmt::print(stderr, "conclave: {}\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    // Where all ranks fail alike, rank 0 speaks for them, and ends this one before it would.
    if (rank != 0) std::this_thread::sleep_for(std::chrono::seconds(1));
    fmt::print(stderr, "conclave: {}\n", with_advice(error));
    if (ranks == 1) return 1;
    session.abort(1);
  }
}

void add_device(CLI::App* command, std::string& device,
                std::string_view automatic = "CUDA devices where every rank has one") {
  command->add_option("--device", device, fmt::format("cpu, cuda, or auto: {}", automatic))
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
}

CLI::IsMember one_of_tasks(auto names) {
  return CLI::IsMember(std::vector<std::string>(names.begin(), names.end()));
}

// Where --help would show as a default what stands for nothing given, or what the option's text says already.
void hide_empty_defaults(CLI::App& app) {
  for (CLI::Option* option : app.get_options())
    if (option->get_required() || option->get_default_str() == "[]" ||
        option->get_description().find("(default:") != std::string::npos)
      option->default_str("");
  for (CLI::App* command : app.get_subcommands({})) hide_empty_defaults(*command);
}

// The options of a command of `privacy`: all but what it is to find out.
void add_privacy(CLI::App* command, conclave::commands::PrivacyArguments& privacy,
                 const std::string& sought) {
  const auto add = [&](const std::string& name, auto& value, const char* meaning) {
    if (name != sought) command->add_option("--" + name, value, meaning)->required();
  };
  add("noise", privacy.noise, "Noise multiplier: the noise's standard deviation over the clipping norm");
  add("steps", privacy.steps, "Releases: steps of training, or rounds");
  add("epsilon", privacy.epsilon, "What may be spent");
  add("delta", privacy.delta, "Well below one over the number of people: 1e-5, say");
  command->add_option("--rate", privacy.rate, "Sampling rate: the probability to take part in a step");
  command->add_option("--accountant", privacy.accountant, "pld, which is tight, or rdp")
      ->check(CLI::IsMember({"pld", "rdp"}));
}

}  // namespace

int main(int argc, char** argv) {
  namespace commands = conclave::commands;
  using conclave::service::kTaskNames;
  CLI::App app{"Conclave trains one mixture of experts across processes, machines and institutions."};
  app.require_subcommand(1);
  app.option_defaults()->always_capture_default();
  app.set_version_flag("--version", std::string(CONCLAVE_VERSION));

  commands::TrainArguments train;
  auto* train_command = app.add_subcommand("train", "Train a model: mpirun -n RANKS conclave train RECIPE");
  train_command->add_option("recipe", train.recipe, "TOML file")->required();
  train_command->add_option("--set", train.overrides, "Change a key: moe.experts=16 (repeatable)")
      ->allow_extra_args(false);
  train_command->add_option("--resume", train.resume,
                            "Go on from a checkpoint: a path, or auto for the newest good one (if any)");
  add_device(train_command, train.device);

  commands::EvaluateArguments evaluate;
  auto* evaluate_command = app.add_subcommand("eval", "Accuracy of a checkpoint on one split of its data");
  evaluate_command->add_option("checkpoint", evaluate.checkpoint, "File, or folder with checkpoints")
      ->required();
  evaluate_command->add_option("--split", evaluate.split, "train, validation or test")
      ->check(CLI::IsMember({"train", "validation", "test"}));
  evaluate_command->add_option("--task", evaluate.task,
                               "classify, caption or generate; else the first that it was trained to do");
  evaluate_command->add_flag("--int8", evaluate.int8,
                             "With products of integers, also where it was not trained for them");
  evaluate_command->add_option("--set", evaluate.overrides, "Change a key of its recipe: data.path=...")
      ->allow_extra_args(false);
  add_device(evaluate_command, evaluate.device);

  commands::QuantizeArguments quantize;
  auto* quantize_command =
      app.add_subcommand("quantize", "A trained model in integers, in a checkpoint of its own");
  quantize_command->add_option("checkpoint", quantize.checkpoint, "File, or folder with checkpoints")
      ->required();
  quantize_command->add_option("--out", quantize.out, "Folder for it; made where it is missing")->required();
  quantize_command
      ->add_option("--batches", quantize.batches,
                   "quantization.activations=tensor: batches of training examples that show the ranges")
      ->check(CLI::Range(1, 1'000'000));
  quantize_command
      ->add_option("--set", quantize.overrides, "Change a key of its recipe: quantization.activations=tensor")
      ->allow_extra_args(false);

  commands::PredictArguments predict;
  auto* predict_command =
      app.add_subcommand("predict", "Classes of texts and images, one JSON object per line");
  predict_command->add_option("checkpoint", predict.checkpoint, "File, or folder with checkpoints")
      ->required();
  predict_command->add_option(
      "texts", predict.texts,
      "Texts, or pairs with a tab between the two. Without any, or images: lines of standard input, each a "
      "text; an image's file where the model takes images alone; where it takes both, also FILE, a tab and "
      "TEXT");
  predict_command
      ->add_option(
          "--image", predict.images,
          "PNG or JPEG file (repeatable); beside texts, the image of the text in its place, \"\" for none")
      ->allow_extra_args(false);
  predict_command->add_option("--top", predict.top, "How many classes to list")->check(CLI::PositiveNumber);
  predict_command->add_option("--set", predict.overrides, "Other plug-ins: run.plugins=libmine.so")
      ->allow_extra_args(false);
  add_device(predict_command, predict.device);

  commands::GenerateArguments generate;
  auto* generate_command = app.add_subcommand("generate", "Draw images of what texts say");
  generate_command->add_option("checkpoint", generate.checkpoint, "File, or folder with checkpoints")
      ->required();
  generate_command
      ->add_option("--text", generate.texts, "What to draw (repeatable); none: every class by its name")
      ->allow_extra_args(false);
  generate_command->add_option("--count", generate.count, "Images for each text")->check(CLI::PositiveNumber);
  generate_command->add_option("--out", generate.out, "*.png, with all of them in a grid");
  generate_command
      ->add_option("--steps", generate.options.steps,
                   "Steps from noise to an image, of two passes of the model each")
      ->check(CLI::PositiveNumber);
  generate_command
      ->add_option("--guidance", generate.options.guidance,
                   "How far to exaggerate what a text adds: 1 draws as the model would, 0 whatever it likes")
      ->check(CLI::NonNegativeNumber);
  generate_command->add_option("--seed", generate.options.seed, "Other seeds, other images");
  generate_command->add_option("--scale", generate.scale, "How many times as large to show a pixel")
      ->check(CLI::Range(1, 64));
  generate_command->add_option("--judge", generate.judge,
                               "Checkpoint of a classifier: how many images it takes for what was asked, and "
                               "how near they are to those "
                               "that the generator was trained on");
  generate_command->add_option("--set", generate.overrides, "Change a key of its recipe")
      ->allow_extra_args(false);
  add_device(generate_command, generate.device, "a CUDA device where there is one");

  commands::CaptionArguments caption;
  auto* caption_command = app.add_subcommand("caption", "Say what images show, one JSON object per line");
  caption_command->add_option("checkpoint", caption.checkpoint, "File, or folder with checkpoints")
      ->required();
  auto* caption_images =
      caption_command->add_option("--image", caption.images, "PNG or JPEG file (repeatable)")
          ->allow_extra_args(false);
  caption_command
      ->add_option("--split", caption.split,
                   "Instead of files: the images of the train, validation or test split of its data, and how "
                   "well the captions fit those given there, by BLEU-4 and CIDEr-D")
      ->check(CLI::IsMember({"train", "validation", "test"}))
      ->excludes(caption_images);
  auto* beam_option = caption_command->add_option(
      "--beam", caption.options.beam, "Follow so many texts at once; 1 takes the likeliest token each time");
  beam_option->check(CLI::Range(1, 64));
  caption_command
      ->add_option("--length-penalty", caption.options.length_penalty,
                   "For --beam: 0 prefers the likeliest text, more a longer one")
      ->check(CLI::NonNegativeNumber)
      ->needs(beam_option);
  auto* top_p_option =
      caption_command->add_option("--top-p", caption.options.top_p,
                                  "Draw tokens at random, of the likeliest that together have this "
                                  "probability, above 0 and at most 1");
  top_p_option->check(CLI::Range(1e-9, 1.0))->excludes(beam_option)->default_str("");
  caption_command
      ->add_option("--temperature", caption.options.temperature,
                   "For --top-p: above 1 the unlikely come more often, below 1 more rarely")
      ->check(CLI::PositiveNumber)
      ->needs(top_p_option);
  caption_command->add_option("--seed", caption.options.seed, "For --top-p: other seeds, other texts")
      ->needs(top_p_option);
  caption_command
      ->add_option("--max-tokens", caption.options.max_tokens,
                   "Where texts are cut off (default: data.max_length)")
      ->check(CLI::PositiveNumber);
  caption_command->add_option("--set", caption.overrides, "Change a key of its recipe: data.path=...")
      ->allow_extra_args(false);
  add_device(caption_command, caption.device, "a CUDA device where there is one");

  commands::ServeArguments serve;
  auto* serve_command = app.add_subcommand(
      "serve", "Answer by HTTP: [mpirun -n RANKS] conclave serve CHECKPOINT, and open the address it prints");
  serve_command->add_option("checkpoint", serve.checkpoint, "File, or folder with checkpoints")->required();
  serve_command->add_option("--tasks", serve.tasks, "What to answer (default: all it can)")
      ->delimiter(',')
      ->check(one_of_tasks(kTaskNames));
  conclave::service::ConnectionOptions& connections = serve.http.connections;
  serve_command->add_option("--host", connections.host,
                            "Address to listen at; 0.0.0.0: all of this machine's");
  serve_command->add_option("--port", connections.port, "0: any that is free")->check(CLI::Range(0, 65535));
  serve_command->add_option("--certificate", connections.certificate, "PEM file, for HTTPS (TLS 1.3)");
  serve_command->add_option("--key", connections.key, "PEM file with its key");
  serve_command->add_option(
      "--token_file", serve.token_file,
      "Its token must come with every question to /v1/TASK: Authorization: Bearer TOKEN");
  serve_command->add_option("--rate", serve.http.rate, "Requests per second from one address (0: any number)")
      ->check(CLI::NonNegativeNumber);
  serve_command->add_option("--burst", serve.http.burst, "With --rate: how many may come at once")
      ->check(CLI::Range(1.0, 1e9));
  serve_command->add_option("--most_body", connections.limits.body, "Bytes of a request's body at most")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 30));
  serve_command->add_option("--most_connections", connections.connections, "Open at once")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 20));
  serve_command->add_option("--request_seconds", connections.request_seconds, "For a request to arrive")
      ->check(CLI::PositiveNumber);
  serve_command
      ->add_option("--drain_seconds", connections.drain_seconds,
                   "At SIGTERM: for requests under way to be answered, at most")
      ->check(CLI::PositiveNumber);
  serve_command
      ->add_option("--batch_tokens", serve.limits.rows, "Tokens and rows of images in a batch at most")
      ->check(CLI::PositiveNumber);
  serve_command->add_option("--most_batch", serve.limits.jobs, "Requests in a batch at most; 1: no batches")
      ->check(CLI::Range(1, 4096));
  serve_command
      ->add_option("--most_waiting", serve.limits.waiting, "Requests that wait; others are refused (503)")
      ->check(CLI::Range(1, 4096));
  serve_command
      ->add_option("--latency", serve.limits.latency,
                   "Seconds that an answer should take at most: batches are cut so short (0: never)")
      ->check(CLI::NonNegativeNumber);
  serve_command->add_option("--set", serve.overrides, "Change a key of its recipe: moe.route_cache_mib=64")
      ->allow_extra_args(false);
  add_device(serve_command, serve.device);

  commands::LoadArguments load;
  auto* load_command = app.add_subcommand("load", "Ask running services, and tell how long they take");
  load_command->add_option("urls", load.urls, "http://HOST:PORT, one after the other")->required();
  load_command->add_option("--task", load.task, "What to ask for, of a text alone")
      ->check(one_of_tasks(kTaskNames | std::views::filter([](std::string_view name) {
                             return name != name_of(conclave::service::TaskKind::caption);
                           })));
  load_command->add_option("--texts", load.texts, "File with a text in each line (default: made up)");
  load_command->add_option("--words", load.words, "Of each text that is made up")
      ->check(CLI::Range(1, 10000));
  auto* clients_option =
      load_command->add_option("--clients", load.clients, "That ask, each as soon as it was answered");
  clients_option->check(CLI::Range(1, 4096));
  auto* rate_option = load_command->add_option(
      "--rate", load.options.rate,
      "Requests per second, at random times, whether or not those before were answered, "
      "over at most --clients connections (256)");
  rate_option->check(CLI::PositiveNumber)->default_str("");
  load_command->add_option("--seconds", load.options.seconds, "For each figure")->check(CLI::PositiveNumber);
  load_command
      ->add_flag("--saturate", load.saturates,
                 "Ever more clients: how many answers per second, 99 of 100 within four times a lone one's")
      ->excludes(clients_option)
      ->excludes(rate_option);
  load_command->add_option("--token_file", load.token_file, "With the token that they want");

  commands::InspectArguments inspect;
  auto* inspect_command =
      app.add_subcommand("inspect", "What is in a checkpoint, and what each expert serves");
  inspect_command
      ->add_option("checkpoint", inspect.checkpoint,
                   "File, or folder with checkpoints; for --cost also a recipe")
      ->required();
  commands::ExpertsArguments experts;
  bool inspect_experts = false;
  auto* experts_flag = inspect_command->add_flag(
      "--experts", inspect_experts,
      "Print and draw what each expert serves on a split of the data; mpirun for several ranks");
  inspect_command->add_option("--split", experts.split, "For --experts: train, validation or test")
      ->check(CLI::IsMember({"train", "validation", "test"}))
      ->needs(experts_flag);
  inspect_command->add_option("--out", experts.out, "For --experts: folder for experts-LAYER.svg and .png")
      ->needs(experts_flag);
  commands::CostArguments cost;
  bool inspect_cost = false;
  auto* cost_flag = inspect_command
                        ->add_flag("--cost", inspect_cost,
                                   "Parameters and FLOPs of every part, for one example's forward pass")
                        ->excludes(experts_flag);
  inspect_command
      ->add_option("--length", cost.length, "For --cost: tokens of a text (default: data.max_length)")
      ->check(CLI::PositiveNumber)
      ->needs(cost_flag);
  inspect_command
      ->add_option("--set", experts.overrides,
                   "For --experts and --cost: change a key: image.depthwise=false")
      ->allow_extra_args(false);
  inspect_command->parse_complete_callback([&] {
    if (!experts.overrides.empty() && !inspect_experts && !inspect_cost)
      throw CLI::RequiresError("--set", "--experts or --cost");
  });
  inspect_command->add_flag("--tensors", inspect.tensors, "List every tensor")
      ->excludes(experts_flag, cost_flag);
  inspect_command->add_flag("--recipe", inspect.recipe, "Print its recipe and nothing else")
      ->excludes(experts_flag, cost_flag);
  inspect_command->add_flag("--verify", inspect.verify, "Compare every tensor with its checksum")
      ->excludes(experts_flag, cost_flag);

  commands::ExportArguments export_weights;
  auto* export_command = app.add_subcommand(
      "export", "Write a checkpoint's weights as .h5 or .safetensors, or what it computes as .onnx");
  export_command->add_option("checkpoint", export_weights.checkpoint, "File, or folder with checkpoints")
      ->required();
  export_command->add_option("output", export_weights.output, "*.h5, *.safetensors or *.onnx")->required();
  export_command->add_option("--format", export_weights.format, "Whatever the output's name says")
      ->check(CLI::IsMember({"hdf5", "safetensors", "onnx"}));
  export_command
      ->add_option("--set", export_weights.overrides, "Change a key of the model's recipe, for ONNX")
      ->allow_extra_args(false);

  commands::BenchArguments bench;
  auto* bench_command =
      app.add_subcommand("bench", "Measure this machine and the parts that decide the speed");
  bench_command->add_option("names", bench.names, "Which (none: all): " + commands::bench_names());
  bench_command->add_option("--checkpoint", bench.checkpoint,
                            "The model that latency is measured of: file, or folder");
  bench_command
      ->add_option("--repetitions", bench.repetitions, "Timings per figure, of which the median is taken")
      ->check(CLI::PositiveNumber);

  auto* federate_command =
      app.add_subcommand("federate", "Train one model at several sites that keep their data");
  federate_command->require_subcommand(1);
  const auto add_set = [](CLI::App* command, std::vector<std::string>& into) {
    command->add_option("--set", into, "Change a key")->allow_extra_args(false);
  };
  commands::ProvisionArguments provision;
  auto* provision_command = federate_command->add_subcommand(
      "provision", "Make start-up kits: of the coordinator and of each site");
  provision_command->add_option("federation", provision.federation, "TOML file")->required();
  provision_command->add_option("--renew", provision.renew, "Make this site's kit another certificate");
  provision_command->add_option("--revoke", provision.revoke, "No longer let this site in");
  add_set(provision_command, provision.overrides);
  commands::InitializeArguments initialize;
  auto* initialize_command = federate_command->add_subcommand(
      "initialize", "Save a recipe's model untrained, for a federation to start with");
  initialize_command->add_option("recipe", initialize.recipe, "TOML file")->required();
  initialize_command->add_option("--out", initialize.out, "Folder for the checkpoint");
  add_set(initialize_command, initialize.overrides);
  commands::CoordinatorArguments coordinator;
  auto* coordinator_command = federate_command->add_subcommand("coordinator", "Lead a federation's rounds");
  coordinator_command->add_option("federation", coordinator.federation, "TOML file")->required();
  add_set(coordinator_command, coordinator.overrides);
  commands::SiteArguments site;
  auto* site_command = federate_command->add_subcommand(
      "site", "Take part with this site's data: [mpirun -n RANKS] conclave federate site SITE");
  site_command->add_option("site", site.site, "TOML file; provision makes one in each kit")->required();
  add_set(site_command, site.overrides);
  add_device(site_command, site.device);
  commands::SimulateArguments simulate;
  auto* simulate_command = federate_command->add_subcommand(
      "simulate", "Train by thousands of virtual clients: [mpirun -n RANKS] conclave federate simulate FILE");
  simulate_command->add_option("simulation", simulate.simulation, "TOML file")->required();
  add_set(simulate_command, simulate.overrides);
  std::string status;
  auto* status_command =
      federate_command->add_subcommand("status", "What a coordinator's rounds have come to");
  status_command->add_option("directory", status, "The coordinator's folder")->required();
  std::string transcript;
  auto* audit_command =
      federate_command->add_subcommand("audit", "Verify a coordinator's transcript of its rounds");
  audit_command->add_option("transcript", transcript, "File, or the coordinator's folder")->required();
  std::string known_head;
  audit_command
      ->add_option("--head", known_head, "A head that an earlier audit printed; it must be there yet")
      ->check(CLI::Validator(
          [](const std::string& text) {
            const bool is_head = text.size() == 64 && text.find_first_not_of("0123456789abcdef") == text.npos;
            return is_head ? "" : "not 64 digits of a head, as audit prints it";
          },
          "HEX"));

  commands::PrivacyArguments privacy;
  auto* privacy_command = app.add_subcommand("privacy", "What noise and sampling spend of privacy, and buy");
  privacy_command->require_subcommand(1);
  auto* epsilon_command = privacy_command->add_subcommand("epsilon", "Epsilon of noise, rate and steps");
  add_privacy(epsilon_command, privacy, "epsilon");
  auto* noise_command = privacy_command->add_subcommand("noise", "The least noise multiplier for a budget");
  add_privacy(noise_command, privacy, "noise");
  auto* steps_command = privacy_command->add_subcommand("steps", "How many steps stay within a budget");
  add_privacy(steps_command, privacy, "steps");

  std::string recipe;
  std::vector<std::string> overrides;
  std::int64_t ranks = 0;
  bool documented = false;
  auto* recipe_command = app.add_subcommand("recipe", "Check or print a recipe");
  recipe_command->require_subcommand(1);
  auto* check_command = recipe_command->add_subcommand("check", "Find mistakes");
  check_command->add_option("recipe", recipe, "TOML file, also of a federation, a site or a simulation")
      ->required();
  check_command->add_option("--set", overrides, "Change a key")->allow_extra_args(false);
  check_command->add_option("--ranks", ranks, "Check also that this many ranks can run it")
      ->check(CLI::PositiveNumber)
      ->default_str("");
  auto* show_command = recipe_command->add_subcommand("show", "Print it with every default filled in");
  show_command->add_option("recipe", recipe, "TOML file, also of a federation, a site or a simulation")
      ->required();
  show_command->add_option("--set", overrides, "Change a key")->allow_extra_args(false);
  show_command->add_flag("--documented", documented, "With what each key means");

  hide_empty_defaults(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }

  std::signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes then fails a save, and no more
  const commands::Surroundings around = surroundings();
  if (*check_command) return alone([&] { return commands::recipe_check(recipe, overrides, ranks); });
  if (*show_command) return alone([&] { return commands::recipe_show(recipe, overrides, documented); });
  if (*epsilon_command) return alone([&] { return commands::privacy_epsilon(privacy); });
  if (*noise_command) return alone([&] { return commands::privacy_noise(privacy); });
  if (*steps_command) return alone([&] { return commands::privacy_steps(privacy); });
  if (inspect_experts) {
    experts.checkpoint = inspect.checkpoint;
    return together([&](const conclave::MpiSession& session) {
      return commands::inspect_experts(experts, around, session);
    });
  }
  if (inspect_cost) {
    cost.path = inspect.checkpoint;
    cost.overrides = experts.overrides;
    return together(
        [&](const conclave::MpiSession& session) { return commands::inspect_cost(cost, around, session); });
  }
  if (*inspect_command) return alone([&] { return commands::inspect(inspect); });
  if (*load_command) return alone([&] { return commands::load_service(load); });
  if (*export_command)
    return alone([&] {
      if (commands::export_format(export_weights) != "onnx") return commands::export_weights(export_weights);
      const conclave::MpiSession session;
      return commands::export_graph(export_weights, session);
    });
  if (*provision_command) return alone([&] { return commands::federate_provision(provision); });
  if (*status_command) return alone([&] { return commands::federate_status(status); });
  if (*audit_command) return alone([&] { return commands::federate_audit(transcript, known_head); });
  if (*train_command || *federate_command || *serve_command) {
    std::signal(SIGINT, on_signal);
    std::signal(SIGTERM, on_signal);
  }
  if (*federate_command)
    return together([&](const conclave::MpiSession& session) {
      if (*initialize_command) return commands::federate_initialize(initialize, around, session);
      if (*simulate_command) return commands::federate_simulate(simulate, around, session);
      if (*coordinator_command) return commands::federate_coordinator(coordinator, around, session);
      return commands::federate_site(site, around, session);
    });
  if (*train_command) {
    return together(
        [&](const conclave::MpiSession& session) { return commands::train(train, around, session); });
  }
  if (*serve_command)
    return together(
        [&](const conclave::MpiSession& session) { return commands::serve(serve, around, session); });
  if (*quantize_command)
    return together(
        [&](const conclave::MpiSession& session) { return commands::quantize(quantize, around, session); });
  if (*evaluate_command)
    return together(
        [&](const conclave::MpiSession& session) { return commands::evaluate(evaluate, around, session); });
  if (*generate_command)
    return together(
        [&](const conclave::MpiSession& session) { return commands::generate(generate, around, session); });
  if (*caption_command)
    return together(
        [&](const conclave::MpiSession& session) { return commands::caption(caption, around, session); });
  if (*predict_command)
    return together(
        [&](const conclave::MpiSession& session) { return commands::predict(predict, around, session); });
  return together(
      [&](const conclave::MpiSession& session) { return commands::bench(bench, around, session); });
}
