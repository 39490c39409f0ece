#include <fmt/format.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "core/file.h"
#include "core/text_line.h"
#include "parallel/moe/balancer.h"
#include "recipes/commands/commands.h"
#include "recipes/evaluation/expert_table.h"
#include "recipes/evaluation/expert_usage.h"
#include "recipes/plot/heat_map.h"
#include "recipes/training/progress.h"

namespace conclave::commands {
namespace {

constexpr std::size_t kMostRows = 100;     // of a picture
constexpr std::size_t kLongestLabel = 32;  // code points

void print(const LayerUsage& layer, const SplitEvaluation& evaluation, const std::string& split,
           std::size_t columns) {
  const auto& names = evaluation.class_names();
  const ExpertTable table(layer.counts, names.size()), shuffled(layer.shuffled, names.size());
  const ExpertInformation bits = table.information();
  const auto percent = [](double part, double whole) { return whole > 0 ? 100 * part / whole : 0; };
  fmt::print("{}: utilization {:.3f} on the {} split\n", layer.name, utilization(table.expert_totals()),
             split);
  fmt::print("  I(class; expert) {:.3f} bits, {:.1f}% of H(expert) {:.3f}, {:.1f}% of H(class) {:.3f}\n",
             bits.mutual, percent(bits.mutual, bits.experts), bits.experts,
             percent(bits.mutual, bits.classes), bits.classes);
  fmt::print(
      "  by chance {:.3f} bits: the same once the texts' labels are shuffled among them (run.seed {})\n",
      shuffled.information().mutual, evaluation.recipe().run.seed);
  if (layer.domain)
    fmt::print("  {}\n", describe_domain(*layer.domain, evaluation.recipe().data.domain_name(),
                                         evaluation.recipe().moe.domain_expert));
  if (!layer.image_share.empty()) fmt::print("  {}\n", describe_image_share(layer.image_share));
  for (std::size_t e = 0; e < table.experts(); ++e) {
    fmt::print("  {}\n", describe_expert(table, e, names));
    for (const Favourite& favourite : layer.favourites[e]) {
      const TextExample& example = evaluation.texts()[static_cast<std::size_t>(favourite.text)];
      const std::string lead = fmt::format("    {:>4.0f}%  ", 100 * favourite.share());
      fmt::print("{}{}\n", lead,
                 one_line(fmt::format("{}: {}", names[static_cast<std::size_t>(example.label)], example.text),
                          columns - std::min(columns, lead.size())));
    }
  }
}

HeatMap picture(const LayerUsage& layer, const SplitEvaluation& evaluation, const std::string& split) {
  const auto& names = evaluation.class_names();
  const ExpertTable table(layer.counts, names.size());
  const ExpertInformation bits = table.information();
  const std::vector<std::size_t> order = classes_by_expert(table, kMostRows);
  HeatMap map{
      .title = fmt::format("What the experts of {} serve", layer.name),
      .subtitles = {fmt::format("{}, step {}, {} texts of the {} split", evaluation.recipe().run.name,
                                evaluation.loaded().step(), evaluation.texts().size(), split),
                    fmt::format("I(class; expert) = {:.3f} bits; by chance {:.3f}; utilization {:.3f}",
                                bits.mutual, ExpertTable(layer.shuffled, names.size()).information().mutual,
                                utilization(table.expert_totals()))},
      .row_caption = "class",
      .row_note_caption = "of tokens",
      .column_caption = "expert",
      .legend = "tokens of the class at the expert, over those expected by chance"};
  if (order.size() < names.size())
    map.subtitles.push_back(
        fmt::format("{} of {} classes: those with the most tokens", order.size(), names.size()));
  for (std::size_t e = 0; e < table.experts(); ++e)
    map.columns.push_back({fmt::format("{}", e), fmt::format("{:.1f}%", 100 * table.expert_share(e))});
  for (const std::size_t c : order) {
    map.rows.push_back(
        {one_line(names[c], kLongestLabel), fmt::format("{:.1f}%", 100 * table.class_share(c))});
    for (std::size_t e = 0; e < table.experts(); ++e) map.values.push_back(table.lift(e, c));
  }
  return map;
}

}  // namespace

int inspect_experts(const ExpertsArguments& arguments, const ProcessEnvironment& surroundings,
                    const MpiSession& session) {
  auto world = session.world();
  set_threads(0, surroundings, *world);
  const ProcessGrid grid(std::move(world), 0);
  const bool speaks = grid.world().rank() == 0;
  SplitEvaluation evaluation(arguments.checkpoint, EvaluatedData{arguments.split}, "", arguments.overrides,
                             grid);
  std::filesystem::path folder = arguments.out;
  if (folder.empty()) folder = std::filesystem::path(evaluation.checkpoint()).parent_path();
  if (speaks && !arguments.out.empty()) {  // before the work, which may take minutes
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    require(!error, "{}: this folder cannot be made ({}); --out takes one to write pictures to",
            arguments.out, error.message());
  }
  const std::vector<LayerUsage> layers = measure_expert_usage(evaluation, grid.world());
  if (!speaks) return 0;
  const auto columns = static_cast<std::size_t>(terminal_columns(STDOUT_FILENO));
  for (const LayerUsage& layer : layers) print(layer, evaluation, arguments.split, columns);
  for (const LayerUsage& layer : layers) {
    const HeatMap map = picture(layer, evaluation, arguments.split);
    const std::string base = folder / ("experts-" + layer.name);
    write_file_atomically(base + ".svg", heat_map_svg(map));
    write_file_atomically(base + ".png", heat_map_png(map));
    fmt::print("{0}.svg\n{0}.png\n", base);
  }
  return 0;
}

}  // namespace conclave::commands
