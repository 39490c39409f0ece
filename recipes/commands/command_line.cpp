// What the command line accepts, with a function for each command, and how a command is run: an error becomes
// a message and an exit status.
#include "recipes/commands/command_line.h"

#include <CLI/CLI.hpp>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ranges>
#include <span>
#include <thread>

#include "core/memory.h"
#include "core/print_line.h"
#include "core/spelling.h"
#include "recipes/commands/commands.h"
#include "recipes/settings/recipe.h"

namespace conclave::commands {
namespace {

using Run = std::function<int(const ProcessEnvironment&)>;

// Runs a command of one process.
Run alone(Run command) {
  return [command = std::move(command)](const ProcessEnvironment& surroundings) {
    try {
      return command(surroundings);
    } catch (const RecipeError& error) {
      complain(error.what());
      return 2;
    } catch (const std::exception& error) {
      complain(error.what());
      return 1;
    }
  };
}

// Advice about the recipe, for errors whose message has none; it continues the message.
std::string_view advice_on(const std::exception& error) {
  if (!dynamic_cast<const OutOfMemory*>(&error)) return "";
  return "; lower train.batch_tokens (and raise train.accumulate, so that a step has as many tokens), make "
         "the model smaller, start more ranks, which share batches and experts, or end other programs that "
         "use the memory";
}

// Runs a command on all ranks. Every rank finds the same mistake in a recipe, so all end in order. Any other
// error may occur on one rank only, and the others would wait for that rank forever, so it aborts them all.
int run_together(const std::function<int(const MpiSession&)>& command) {
  MpiSession session;
  int rank = 0, ranks = 1;
  try {
    rank = session.world()->rank();
    ranks = session.world()->size();
    return command(session);
  } catch (const RecipeError& error) {
    if (rank == 0) complain(error.what());
    return 2;
  } catch (const std::exception& error) {
    // If all ranks fail alike, rank 0 prints the message and aborts this rank while it sleeps.
    if (rank != 0) std::this_thread::sleep_for(std::chrono::seconds(1));
    complain(error.what(), advice_on(error));
    if (ranks == 1) return 1;
    session.abort(1);
  }
}

template <class Arguments>
using OnRanks = int (*)(const Arguments&, const ProcessEnvironment&, const MpiSession&);

template <class Arguments>
Run together(OnRanks<Arguments> command, const Arguments& arguments) {
  return [=](const ProcessEnvironment& surroundings) {
    return run_together([&](const MpiSession& session) { return command(arguments, surroundings, session); });
  };
}

// Reports output that could not be written, for example to a full disk.
int with_output_written(int status) {
  errno = 0;
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return status;
  if (errno != 0)
    complain("not all output could be written: ", std::strerror(errno));
  else
    complain("not all output could be written");
  return status == 0 ? 1 : status;
}

// Signals that a command handles: SIGINT and SIGTERM ask for an orderly end, SIGHUP asks it to read its files
// again. Such a command does its work even if whoever reads its output goes before.
enum class Heeds : std::uint8_t { none, end, end_and_renewal };

// The command on the command line.
struct Chosen {
  Run run;
  Heeds heeds = Heeds::none;
};

// Each returns the struct that the options of `command` fill; it lives as long as the command. If the command
// is chosen, `run` gets the struct.

template <class Arguments>
Arguments& on_ranks(CLI::App* command, Chosen& chosen, OnRanks<Arguments> run, Heeds heeds = Heeds::none) {
  const auto arguments = std::make_shared<Arguments>();
  command->callback([=, &chosen] { chosen = {together(run, *arguments), heeds}; });
  return *arguments;
}

template <class Arguments>
Arguments& until_interrupted(CLI::App* command, Chosen& chosen, OnRanks<Arguments> run) {
  return on_ranks(command, chosen, run, Heeds::end);
}

template <class Arguments>
Arguments& in_one_process(CLI::App* command, Chosen& chosen, int (*run)(const Arguments&)) {
  const auto arguments = std::make_shared<Arguments>();
  command->callback(
      [=, &chosen] { chosen = {alone([=](const ProcessEnvironment&) { return run(*arguments); })}; });
  return *arguments;
}

void add_checkpoint(CLI::App* command, std::string& checkpoint) {
  command->add_option("checkpoint", checkpoint, "File, or folder with checkpoints")->required();
}

void add_set(CLI::App* command, std::vector<std::string>& overrides,
             const std::string& meaning = "Change a key") {
  command->add_option("--set", overrides, meaning)->allow_extra_args(false);
}

void add_device(CLI::App* command, std::string& device,
                std::string_view automatic = "CUDA devices where every rank has one") {
  command->add_option("--device", device, fmt::format("cpu, cuda, or auto: {}", automatic))
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
}

// The message of CLI11's own validator shows the largest double.
const CLI::Validator kAboveZero(
    [](std::string& text) {
      double value = 0;
      const bool holds = CLI::detail::lexical_cast(text, value) && value > 0;
      return holds ? std::string() : fmt::format("must be above 0, and is {}", text);
    },
    "POSITIVE");

// A day is as good as for ever.
const CLI::Validator kSeconds(
    [](std::string& text) {
      double value = 0;
      const bool holds = CLI::detail::lexical_cast(text, value) && value > 0 && value <= 86400;
      return holds ? std::string()
                   : fmt::format("must be above 0 and at most 86400 seconds, and is {}", text);
    },
    "SECONDS");

// --token-file "$UNSET" does not ask for a service without a token.
const CLI::Validator kNamed(
    [](std::string& text) { return text.empty() ? std::string("the name is empty") : std::string(); },
    "FILE");

CLI::IsMember one_of_splits() { return CLI::IsMember({"train", "validation", "test"}); }

CLI::IsMember one_of_tasks(auto names) {
  return CLI::IsMember(std::vector<std::string>(names.begin(), names.end()));
}

// Hides from --help defaults that mean "not given", and those that the option's text states already.
void hide_empty_defaults(CLI::App& app) {
  for (CLI::Option* option : app.get_options())
    if (option->get_required() || option->get_default_str() == "[]" ||
        option->get_description().find("(default:") != std::string::npos)
      option->default_str("");
  for (CLI::App* command : app.get_subcommands({})) hide_empty_defaults(*command);
}

void add_train(CLI::App& app, Chosen& chosen) {
  auto* command = app.add_subcommand("train", "Train a model: mpirun -n RANKS conclave train RECIPE");
  TrainArguments& arguments = until_interrupted(command, chosen, commands::train);
  command->add_option("recipe", arguments.recipe, "TOML file")->required();
  add_set(command, arguments.overrides, "Change a key: moe.experts=16 (repeatable)");
  command->add_option("--resume", arguments.resume,
                      "Go on from a checkpoint: a path, or auto for the newest good one (if any)");
  add_device(command, arguments.device);
}

void add_evaluate(CLI::App& app, Chosen& chosen) {
  auto* command =
      app.add_subcommand("eval", "Accuracy of a checkpoint on one split of its data, or on a table");
  EvaluateArguments& arguments = on_ranks(command, chosen, commands::evaluate);
  add_checkpoint(command, arguments.checkpoint);
  auto* split_option =
      command->add_option("--split", arguments.split, "train, validation or test")->check(one_of_splits());
  command
      ->add_option(
          "--data", arguments.data,
          "Evaluate on all rows of this table (*.csv, *.tsv, *.jsonl) of texts and labels instead of a "
          "split; its classes must be classes of the model")
      ->check(kNamed)
      ->excludes(split_option);
  command->add_option("--task", arguments.task,
                      fmt::format("Task to evaluate: {} (default: the first that the model was trained for)",
                                  fmt::join(tasks_that(&TaskTraits::trained), ", ")));
  command->add_flag("--classes", arguments.classes,
                    "Also print a line for each class, with its number of examples, precision and recall");
  command->add_flag("--int8", arguments.int8,
                    "Compute products in 8-bit integers, even if the model was not trained for that");
  add_set(command, arguments.overrides, "Change a key of the model's recipe, as in data.path=...");
  add_device(command, arguments.device);
}

void add_quantize(CLI::App& app, Chosen& chosen) {
  auto* command =
      app.add_subcommand("quantize", "Write a trained model with weights in integers, as a new checkpoint");
  QuantizeArguments& arguments = on_ranks(command, chosen, commands::quantize);
  add_checkpoint(command, arguments.checkpoint);
  command
      ->add_option("--out", arguments.out, "Folder for the new checkpoint; it is made if it does not exist")
      ->required();
  command
      ->add_option(
          "--batches", arguments.batches,
          "Number of batches of training examples from which the ranges of activations are taken, for "
          "quantization.activations=tensor")
      ->check(CLI::Range(1, 1'000'000));
  add_set(command, arguments.overrides, "Change a key of its recipe: quantization.activations=tensor");
}

void add_predict(CLI::App& app, Chosen& chosen) {
  auto* command = app.add_subcommand("predict", "Classes of texts and images, one JSON object per line");
  PredictArguments& arguments = on_ranks(command, chosen, commands::predict);
  add_checkpoint(command, arguments.checkpoint);
  command->add_option(
      "texts", arguments.texts,
      "Texts, or pairs of texts with a tab between the two. Without texts and images, each line of standard "
      "input is an example: a text; the file of an image, if the model takes only images; or a file, a tab "
      "and a text, if the model takes both");
  command
      ->add_option(
          "--image", arguments.images,
          "PNG or JPEG file (repeatable). With texts, the first image belongs to the first text, and so on; "
          "\"\" stands for no image")
      ->allow_extra_args(false);
  command->add_option("--top", arguments.top, "Number of classes to list for each example")
      ->check(kAboveZero);
  add_set(command, arguments.overrides, "Change a key of its recipe: run.plugins=libmine.so");
  add_device(command, arguments.device);
}

void add_generate(CLI::App& app, Chosen& chosen) {
  auto* command = app.add_subcommand("generate", "Draw images of what texts say");
  GenerateArguments& arguments = on_ranks(command, chosen, commands::generate);
  add_checkpoint(command, arguments.checkpoint);
  command
      ->add_option("--text", arguments.texts, "What to draw (repeatable; default: every class, by its name)")
      ->allow_extra_args(false);
  command->add_option("--count", arguments.count, "Images for each text")->check(CLI::Range(1, 1'000'000));
  command->add_option("--out", arguments.out, "PNG file to write, with all images in a grid");
  command
      ->add_option("--steps", arguments.options.steps,
                   "Number of steps from noise to an image; each step takes two passes of the model")
      ->check(kAboveZero);
  command
      ->add_option("--guidance", arguments.options.guidance,
                   "Strength of the text's effect: 1 draws as the model learned to, more than 1 follows the "
                   "text more closely, and 0 ignores the text")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--seed", arguments.options.seed,
                      "Seed of the random numbers; another seed draws other images of the same texts");
  command->add_option("--scale", arguments.scale, "Enlarge each pixel to a square of this many pixels a side")
      ->check(CLI::Range(1, 64));
  command->add_option(
      "--judge", arguments.judge,
      "Checkpoint of a classifier, which judges the images: how many of them it recognizes as "
      "what was asked for, and how near they are to the generator's training images");
  add_set(command, arguments.overrides, "Change a key of its recipe");
  add_device(command, arguments.device, "a CUDA device where there is one");
}

void add_caption(CLI::App& app, Chosen& chosen) {
  auto* command = app.add_subcommand("caption", "Say what images show, one JSON object per line");
  CaptionArguments& arguments = on_ranks(command, chosen, commands::caption);
  add_checkpoint(command, arguments.checkpoint);
  auto* caption_images = command->add_option("--image", arguments.images, "PNG or JPEG files to describe");
  command
      ->add_option(
          "--split", arguments.split,
          "Describe the images of the train, validation or test split of the model's data instead of "
          "files, and compare with the captions given there, by BLEU-4 and CIDEr-D")
      ->check(one_of_splits())
      ->excludes(caption_images);
  auto* beam_option = command->add_option(
      "--beam", arguments.options.beam,
      "Number of partial captions that beam search keeps; 1 takes the likeliest token each "
      "time");
  beam_option->check(CLI::Range(1, 64));
  command
      ->add_option("--length-penalty", arguments.options.length_penalty,
                   "With --beam: 0 chooses the likeliest caption; larger values prefer longer captions")
      ->check(CLI::NonNegativeNumber)
      ->needs(beam_option);
  auto* top_p_option = command->add_option("--top-p", arguments.options.top_p,
                                           "Draw each token at random from the likeliest tokens whose "
                                           "probabilities together reach this, above 0 and at most 1");
  top_p_option->check(CLI::Range(1e-9, 1.0))->excludes(beam_option)->default_str("");
  command
      ->add_option("--temperature", arguments.options.temperature,
                   "With --top-p: above 1, unlikely tokens are drawn more often; below 1, less often")
      ->check(kAboveZero)
      ->needs(top_p_option);
  command
      ->add_option("--seed", arguments.options.seed,
                   "With --top-p: seed of the random numbers; another seed gives other captions")
      ->needs(top_p_option);
  command
      ->add_option("--max-tokens", arguments.options.max_tokens,
                   "Number of tokens after which a caption is cut off (default: data.max_length)")
      ->check(kAboveZero);
  add_set(command, arguments.overrides, "Change a key of its recipe: data.path=...");
  add_device(command, arguments.device, "a CUDA device where there is one");
}

void add_serve(CLI::App& app, Chosen& chosen) {
  auto* command = app.add_subcommand(
      "serve", "Answer by HTTP: [mpirun -n RANKS] conclave serve CHECKPOINT, and open the address it prints");
  ServeArguments& arguments = on_ranks(command, chosen, commands::serve, Heeds::end_and_renewal);
  add_checkpoint(command, arguments.checkpoint);
  command
      ->add_option("--tasks", arguments.tasks,
                   "Tasks to serve, separated by commas (default: all that the model can do)")
      ->delimiter(',')
      ->check(one_of_tasks(kTaskNames));
  service::ConnectionOptions& connections = arguments.http.connections;
  command->add_option("--host", connections.host,
                      "Address to listen at; 0.0.0.0 listens at all addresses of this machine");
  command->add_option("--port", connections.port, "Port to listen at; 0 takes any free port")
      ->check(CLI::Range(0, 65535));
  command
      ->add_option("--certificate", connections.certificate,
                   "PEM file with the server's certificate, for HTTPS (TLS 1.3)")
      ->check(kNamed);
  command->add_option("--key", connections.key, "PEM file with the certificate's key")->check(kNamed);
  command
      ->add_option("--token-file", arguments.token_file,
                   "File with a token. Every request to /v1/TASK must then have the header Authorization: "
                   "Bearer TOKEN")
      ->check(kNamed);
  command
      ->add_option("--rate", arguments.http.rate,
                   "Requests per second that one address may send; 0: any number")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--burst", arguments.http.burst, "With --rate: requests that one address may send at once")
      ->check(CLI::Range(1.0, 1e9));
  command
      ->add_option("--proxy", arguments.http.proxies,
                   "Address of a trusted proxy, whose X-Forwarded-For names the client (repeatable)")
      ->allow_extra_args(false);
  command
      ->add_option("--allow-host", arguments.http.hosts,
                   "Another name of the service, without a port, that browsers may use (repeatable): for "
                   "Host, if only this machine can connect and there is no token, and for Origin behind a "
                   "proxy that replaces Host")
      ->allow_extra_args(false);
  command
      ->add_option(
          "--log", arguments.http.log,
          "File to which a line of JSON is appended for every request: who, when, what, status, seconds")
      ->check(kNamed);
  command
      ->add_option(
          "--max-body", arguments.max_body,
          "Maximum number of bytes in a request's body (default: 16 MiB; 1 MiB if the model takes no "
          "images)")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 30));
  command->add_option("--max-connections", connections.connections, "Maximum number of open connections")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 20));
  command
      ->add_option("--request-seconds", connections.request_seconds,
                   "Seconds that a request may take to arrive")
      ->check(kSeconds);
  command
      ->add_option("--drain-seconds", connections.drain_seconds,
                   "Maximum number of seconds that the service goes on answering open requests after SIGTERM")
      ->check(kSeconds);
  command
      ->add_option("--batch-tokens", arguments.limits.rows,
                   "Maximum number of tokens and rows of images in a batch")
      ->check(kAboveZero);
  command
      ->add_option("--max-batch", arguments.limits.jobs,
                   "Maximum number of requests in a batch; 1: no batches")
      ->check(CLI::Range(1, 4096));
  command
      ->add_option("--max-waiting", arguments.limits.waiting,
                   "Maximum number of waiting requests; others are refused (503)")
      ->check(CLI::Range(1, 4096));
  command
      ->add_option("--latency", arguments.limits.latency,
                   "Maximum number of seconds that an answer should take. A request that would take longer, "
                   "because of those that wait already, is refused (503); 0: none is refused")
      ->check(CLI::NonNegativeNumber);
  add_set(command, arguments.overrides, "Change a key of its recipe: moe.route_cache_mib=64");
  add_device(command, arguments.device);
}

void add_load(CLI::App& app, Chosen& chosen) {
  auto* command = app.add_subcommand("load", "Ask running services, and tell how long they take");
  LoadArguments& arguments = in_one_process(command, chosen, commands::load_service);
  command->add_option("urls", arguments.urls, "http://HOST:PORT, one after the other")->required();
  command->add_option("--task", arguments.task, "Task to ask for")
      ->check(one_of_tasks(tasks_that([](const TaskTraits&) { return true; })));
  auto* texts_option = command->add_option(
      "--texts", arguments.texts,
      "File with a text in each line (default: texts of random words, if there are no images)");
  auto* images_option =
      command->add_option("--images", arguments.images, "Files with images; each request has one of them");
  images_option->check(kNamed);
  command->add_option("--words", arguments.words, "Number of words in each random text")
      ->check(CLI::Range(1, 10000))
      ->excludes(texts_option)
      ->excludes(images_option);
  auto* clients_option = command->add_option(
      "--clients", arguments.clients,
      "Number of clients, each of which sends its next request as soon as it is answered");
  clients_option->check(CLI::Range(1, 4096));
  auto* rate_option =
      command->add_option("--rate", arguments.options.rate,
                          "Send this many requests per second, at random times, whether or not earlier ones "
                          "were answered, over at most --clients connections (256)");
  rate_option->check(kAboveZero)->default_str("");
  command->add_option("--seconds", arguments.options.seconds, "Seconds of measuring for each figure")
      ->check(kAboveZero);
  command
      ->add_flag(
          "--saturate", arguments.saturates,
          "Raise the number of clients, to find the most answers per second at which 99 of 100 take at "
          "most four times as long as those of a single client, in the middle of three measurements of each "
          "service")
      ->excludes(clients_option)
      ->excludes(rate_option);
  command->add_option("--token-file", arguments.token_file, "File with the token that the services require")
      ->check(kNamed);
  auto* insecure = command->add_flag("--insecure", arguments.options.insecure,
                                     "Use HTTPS without checking the server's certificate");
  command
      ->add_option("--ca", arguments.options.ca,
                   "PEM file with the authorities that may have signed certificates (default: the system's)")
      ->check(kNamed)
      ->excludes(insecure);
}

void add_inspect(CLI::App& app, Chosen& chosen) {
  auto* command = app.add_subcommand("inspect", "What is in a checkpoint, and what each expert serves");
  struct Arguments {
    InspectArguments inspect;
    ExpertsArguments experts;
    CostArguments cost;
    bool of_experts = false, of_cost = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  command
      ->add_option("checkpoint", arguments->inspect.checkpoint,
                   "File, or folder with checkpoints; for --cost also a recipe")
      ->required();
  auto* experts_flag = command->add_flag(
      "--experts", arguments->of_experts,
      "Print and draw what each expert serves on a split of the data; mpirun for several ranks");
  command->add_option("--split", arguments->experts.split, "With --experts: train, validation or test")
      ->check(one_of_splits())
      ->needs(experts_flag);
  command
      ->add_option("--out", arguments->experts.out, "With --experts: folder for experts-LAYER.svg and .png")
      ->needs(experts_flag);
  auto* cost_flag = command
                        ->add_flag("--cost", arguments->of_cost,
                                   "Parameters and FLOPs of every part, for one example's forward pass")
                        ->excludes(experts_flag);
  command
      ->add_option("--length", arguments->cost.length,
                   "With --cost: number of tokens in a text (default: data.max_length)")
      ->check(kAboveZero)
      ->needs(cost_flag);
  command
      ->add_option("--set", arguments->experts.overrides,
                   "With --experts and --cost: change a key of the recipe, as in image.depthwise=false")
      ->allow_extra_args(false);
  command->parse_complete_callback([arguments] {
    if (!arguments->experts.overrides.empty() && !arguments->of_experts && !arguments->of_cost)
      throw CLI::RequiresError("--set", "--experts or --cost");
  });
  command->add_flag("--tensors", arguments->inspect.tensors, "List every tensor")
      ->excludes(experts_flag, cost_flag);
  command->add_flag("--recipe", arguments->inspect.recipe, "Print its recipe and nothing else")
      ->excludes(experts_flag, cost_flag);
  command->add_flag("--verify", arguments->inspect.verify, "Compare every tensor with its checksum")
      ->excludes(experts_flag, cost_flag);
  command->callback([arguments, &chosen] {
    if (arguments->of_experts) {
      arguments->experts.checkpoint = arguments->inspect.checkpoint;
      chosen = {together(commands::inspect_experts, arguments->experts)};
    } else if (arguments->of_cost) {
      arguments->cost.path = arguments->inspect.checkpoint;
      arguments->cost.overrides = arguments->experts.overrides;
      chosen = {together(commands::inspect_cost, arguments->cost)};
    } else {
      chosen = {alone([arguments](const ProcessEnvironment&) { return inspect(arguments->inspect); })};
    }
  });
}

void add_export(CLI::App& app, Chosen& chosen) {
  auto* command = app.add_subcommand(
      "export", "Write a checkpoint's weights as .h5 or .safetensors, or what it computes as .onnx");
  const auto shared = std::make_shared<ExportArguments>();
  command->callback([=, &chosen] {
    chosen = {export_format(*shared) == "onnx" ? together(export_graph, *shared)
                                               : alone([=](const ProcessEnvironment& surroundings) {
                                                   return export_weights(*shared, surroundings);
                                                 })};
  });
  ExportArguments& arguments = *shared;
  add_checkpoint(command, arguments.checkpoint);
  command->add_option("output", arguments.output, "*.h5, *.safetensors or *.onnx")->required();
  command
      ->add_option("--format", arguments.format,
                   "Format to write (default: by the ending of the output's name)")
      ->check(CLI::IsMember({"hdf5", "safetensors", "onnx"}));
  add_set(command, arguments.overrides, "Change a key of the model's recipe, for ONNX");
}

void add_bench(CLI::App& app, Chosen& chosen) {
  auto* command = app.add_subcommand("bench", "Measure this machine and the parts that decide the speed");
  BenchArguments& arguments = on_ranks(command, chosen, commands::bench);
  command->add_option("names", arguments.names, "Names of what to measure (default: all): " + bench_names());
  command->add_option(
      "--checkpoint", arguments.checkpoint,
      "Model whose latency is measured, of texts or of drawings: file, or folder with checkpoints");
  add_set(command, arguments.overrides, "Change a key of its recipe: run.plugins=libmine.so");
  command
      ->add_option("--repetitions", arguments.repetitions,
                   "Number of timings for each figure, of which the median is printed")
      ->check(kAboveZero);
}

CLI::Validator is_sha256(const std::string& whose) {
  return {[whose](const std::string& text) {
            const bool is = text.size() == 64 && text.find_first_not_of("0123456789abcdef") == text.npos;
            return is ? "" : "not 64 digits of " + whose;
          },
          "HEX"};
}

void add_members(CLI::App* federate, Chosen& chosen) {
  auto* provision =
      federate->add_subcommand("provision", "Make start-up kits: of the coordinator and of each site");
  ProvisionArguments& kits = in_one_process(provision, chosen, federate_provision);
  provision->add_option("federation", kits.federation, "TOML file")->required();
  provision->add_option("--renew", kits.renew, "Make a new certificate for this site's kit");
  provision->add_option("--revoke", kits.revoke,
                        "Revoke this site's certificate, so that the coordinator refuses the site");
  provision->add_option(
      "--request", kits.requests,
      "Request file that a site made with `federate request`; it is signed, and the site's key "
      "stays at the site");
  provision
      ->add_option(
          "--key-sha256", kits.key_sha256,
          "SHA-256 of the public key in the --request file, as the site told it over another channel, "
          "for example by telephone")
      ->check(is_sha256("a key, as request prints it"));
  add_set(provision, kits.overrides);

  auto* request = federate->add_subcommand(
      "request", "At a site: make its key, and a request for a certificate, which provision signs");
  RequestArguments& asked = in_one_process(request, chosen, federate_request);
  request->add_option("site", asked.site, "Its name, as in federation.sites")->required();
  request->add_option(
      "--out", asked.out,
      "Folder for the key and the request; an existing key.pem in it is used (default: a folder "
      "with the site's name)");

  auto* initialize = federate->add_subcommand(
      "initialize", "Save a recipe's model untrained, for a federation to start with");
  InitializeArguments& start = until_interrupted(initialize, chosen, federate_initialize);
  initialize->add_option("recipe", start.recipe, "TOML file")->required();
  initialize->add_option("--out", start.out, "Folder for the checkpoint");
  add_set(initialize, start.overrides);

  auto* coordinator = federate->add_subcommand("coordinator", "Lead a federation's rounds");
  CoordinatorArguments& leader = until_interrupted(coordinator, chosen, federate_coordinator);
  coordinator->add_option("federation", leader.federation, "TOML file")->required();
  add_set(coordinator, leader.overrides);

  auto* site = federate->add_subcommand(
      "site", "Take part with this site's data: [mpirun -n RANKS] conclave federate site SITE");
  SiteArguments& member = until_interrupted(site, chosen, federate_site);
  site->add_option("site", member.site, "TOML file; provision makes one in each kit")->required();
  add_set(site, member.overrides);
  add_device(site, member.device);
}

void add_federate(CLI::App& app, Chosen& chosen) {
  auto* federate = app.add_subcommand("federate", "Train one model at several sites that keep their data");
  federate->require_subcommand(1);
  add_members(federate, chosen);

  auto* simulate = federate->add_subcommand(
      "simulate", "Train by thousands of virtual clients: [mpirun -n RANKS] conclave federate simulate FILE");
  SimulateArguments& simulated = until_interrupted(simulate, chosen, federate_simulate);
  simulate->add_option("simulation", simulated.simulation, "TOML file")->required();
  add_set(simulate, simulated.overrides);

  auto* status = federate->add_subcommand("status", "Show the rounds of a coordinator so far");
  StatusArguments& seen = in_one_process(status, chosen, federate_status);
  status->add_option("directory", seen.directory, "The coordinator's folder")->required();

  auto* audit = federate->add_subcommand("audit", "Verify a coordinator's transcript of its rounds");
  AuditArguments& audited = in_one_process(audit, chosen, federate_audit);
  audit->add_option("transcript", audited.transcript, "File, or the coordinator's folder")->required();
  audit
      ->add_option(
          "--head", audited.head,
          "Head that an earlier audit printed; the audit fails if the transcript no longer contains it")
      ->check(is_sha256("a head, as audit prints it"));
}

// Adds options for all values but the one that is sought.
void add_sought(CLI::App* command, PrivacyArguments& privacy, const std::string& sought) {
  const auto add = [&](const std::string& name, auto& value, const char* meaning) {
    if (name != sought) command->add_option("--" + name, value, meaning)->required();
  };
  add("noise", privacy.noise, "Noise multiplier: the noise's standard deviation over the clipping norm");
  add("steps", privacy.steps, "Number of releases, which are steps of training, or rounds");
  add("epsilon", privacy.epsilon, "Budget: the epsilon that may be spent");
  add("delta", privacy.delta, "Delta; choose it well below one over the number of people, for example 1e-5");
  command->add_option("--rate", privacy.rate, "Sampling rate: the probability to take part in a step");
  command
      ->add_option("--accountant", privacy.accountant,
                   "Method of accounting: pld, which gives tight figures, or rdp")
      ->check(CLI::IsMember({"pld", "rdp"}));
}

void add_privacy(CLI::App& app, Chosen& chosen) {
  auto* privacy = app.add_subcommand("privacy", "Compute the epsilon, noise or steps of private training");
  privacy->require_subcommand(1);
  const auto add = [&](const char* sought, const char* meaning, int (*run)(const PrivacyArguments&)) {
    auto* command = privacy->add_subcommand(sought, meaning);
    add_sought(command, in_one_process(command, chosen, run), sought);
  };
  add("epsilon", "Epsilon of noise, rate and steps", privacy_epsilon);
  add("noise", "The least noise multiplier for a budget", privacy_noise);
  add("steps", "How many steps stay within a budget", privacy_steps);
}

void add_recipe(CLI::App& app, Chosen& chosen) {
  auto* recipe = app.add_subcommand("recipe", "Check or print a recipe");
  recipe->require_subcommand(1);
  const auto add = [&](const char* name, const char* meaning, int (*run)(const RecipeArguments&)) {
    auto* command = recipe->add_subcommand(name, meaning);
    RecipeArguments& arguments = in_one_process(command, chosen, run);
    command->add_option("recipe", arguments.recipe, "TOML file, also of a federation, a site or a simulation")
        ->required();
    add_set(command, arguments.overrides);
    return std::pair<CLI::App*, RecipeArguments&>(command, arguments);
  };
  const auto [check, checked] = add("check", "Find mistakes", recipe_check);
  check->add_option("--ranks", checked.ranks, "Also check that this many ranks can run the recipe")
      ->check(kAboveZero)
      ->default_str("");
  const auto [show, shown] = add("show", "Print a recipe with every default filled in", recipe_show);
  show->add_flag("--documented", shown.documented, "Also print what each key means");
}

std::atomic<bool> interrupted{false}, hung_up{false};

// The first signal asks for an orderly end; a second one has the default effect.
void on_signal(int signal) {
  interrupted = true;
  std::signal(signal, SIG_DFL);
}

// The arguments with the names of options as --help has them: '-' in place of '_'. What follows "--" or an
// option's '=' stays as it is.
std::vector<std::string> with_hyphens(std::span<char* const> arguments) {
  std::vector<std::string> renamed;
  bool options = true;
  for (std::string argument : arguments) {
    options = options && argument != "--";
    if (options && argument.starts_with("--")) {
      const auto end =
          argument.begin() + static_cast<std::ptrdiff_t>(std::min(argument.find('='), argument.size()));
      std::replace(argument.begin(), end, '_', '-');
    }
    renamed.push_back(std::move(argument));
  }
  return renamed;
}

// Prints what is wrong with the arguments, and where to read more.
void print_mistake(const CLI::App& app, const std::vector<std::string>& arguments, const CLI::Error& error) {
  const CLI::App* command = &app;
  std::string name = "conclave", wrong = error.what();
  for (const std::string& argument : arguments) {
    const auto commands = command->get_subcommands([](const CLI::App*) { return true; });
    if (commands.empty() || argument.starts_with('-')) break;
    const auto next = std::ranges::find(commands, argument, &CLI::App::get_name);
    if (next == commands.end()) {
      std::vector<std::string> names;
      for (const CLI::App* one : commands) names.push_back(one->get_name());
      const std::vector<std::string_view> views(names.begin(), names.end());
      wrong =
          fmt::format("no command is named '{}'; the nearest is '{}'", argument, nearest(argument, views));
      break;
    }
    command = *next;
    name += " " + argument;
  }
  complain(wrong, "\nSee ", name, " --help");
}

}  // namespace

int run_command_line(int argc, char** argv, const std::string& version, ProcessEnvironment surroundings) {
  CLI::App app{"Conclave trains one mixture of experts across processes, machines and institutions.",
               "conclave"};
  app.require_subcommand(1);
  app.option_defaults()->always_capture_default();
  app.set_version_flag("--version", version);
  Chosen chosen;
  for (const auto add :
       {add_train, add_evaluate, add_quantize, add_predict, add_generate, add_caption, add_serve, add_load,
        add_inspect, add_export, add_bench, add_federate, add_privacy, add_recipe})
    add(app, chosen);
  hide_empty_defaults(app);
  const std::vector<std::string> arguments = with_hyphens({argv + 1, argv + argc});
  try {
    app.parse(
        std::vector<std::string>(arguments.rbegin(), arguments.rend()));  // CLI11 takes the last one first
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return with_output_written(app.exit(error));  // for example, --help
    print_mistake(app, arguments, error);
    return 2;
  }

  std::signal(SIGXFSZ, SIG_IGN);  // a save beyond a file size limit then fails, and the process goes on
  if (chosen.heeds != Heeds::none) {
    std::signal(SIGINT, on_signal);
    std::signal(SIGTERM, on_signal);
    std::signal(SIGPIPE, SIG_IGN);
  }
  if (chosen.heeds == Heeds::end_and_renewal)
    surroundings.ignores_hang_up = std::signal(SIGHUP, [](int) { hung_up = true; }) == SIG_IGN;
  surroundings.interrupted = &interrupted;
  surroundings.hung_up = &hung_up;
  return with_output_written(chosen.run(surroundings));
}

}  // namespace conclave::commands
