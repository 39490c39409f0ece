#include "recipes/onnx/classifier.h"

#include <nlohmann/json.hpp>

#include "recipes/onnx/bigram_table.h"
#include "recipes/onnx/moe.h"
#include "recipes/onnx/vision.h"

namespace conclave::onnx {
namespace {

using Axis = std::vector<Attribute>;

// Rows of the trunk, and scores that are added to the routers' scores of experts; "": none.
struct Rows {
  Value values;  // [batch * length, hidden]
  Sequences sequences;
  Value scores = {};
};

class Writer {
 public:
  explicit Writer(LoadedModel& loaded)
      : model_(loaded.model()), recipe_(loaded.recipe()), hidden_(recipe_.model.hidden) {}

  std::string file(const std::map<std::string, std::string>& metadata) {
    Rows texts, images;
    if (recipe_.data.has_texts()) texts = embed();
    if (recipe_.data.has_images()) images = encode();
    const bool both = recipe_.data.has_texts() && recipe_.data.has_images();
    Value pooled;
    if (const Module* fusion = child_or_null(model_, "fusion"))
      pooled = fuse(dynamic_cast<const Fusion&>(*fusion), images, texts);
    else
      pooled = pool(transform(both ? merge(images, texts) : recipe_.data.has_texts() ? texts : images));
    Value logits = linear(graph_, pooled, child<Linear>(model_, "head"));
    if (model_.wide()) {
      const Graph::Scope scope(graph_, "wide");
      const Value weight = graph_.scalar(static_cast<float>(recipe_.model.bigram_weight));
      logits = graph_("Add", {logits, graph_("Mul", {wide(), weight})});
    }
    const std::vector<Dimension> shape{"batch", model_.sizes().classes};
    graph_.output(logits, "logits", ElementType::f32, shape);
    graph_.output(graph_("Softmax", {logits}, {{"axis", std::int64_t{-1}}}), "probabilities",
                  ElementType::f32, shape);
    return graph_.file(metadata);
  }

 private:
  // [1] i64: the length of x's dimension `axis`.
  Value length_of(const Value& x, std::int64_t axis) {
    return graph_("Shape", {x}, {{"start", axis}, {"end", axis + 1}});
  }
  Value joined(const std::vector<Value>& parts, std::int64_t axis) {
    return graph_("Concat", parts, {{"axis", axis}});
  }
  // Expands x [1, ...] to [batch, rows, ...].
  Value repeated(const Value& x, const Value& batch, const Value& rows, const Integers& last) {
    std::vector<Value> shape{batch, rows};
    if (!last.empty()) shape.push_back(graph_.integers(last));
    return graph_("Expand", {x, joined(shape, 0)});
  }

  Rows embed() {
    const std::vector<Dimension> shape{"batch", "sequence"};
    ids_ = graph_.input("input_ids", ElementType::i64, shape);
    const Value mask = graph_.input("attention_mask", ElementType::i64, shape);
    const Sequences sequences{length_of(ids_, 0), length_of(ids_, 1), graph_.cast(mask, ElementType::f32)};
    mask_ = sequences.mask;
    const Value tokens = parameter(graph_, child(model_, "token_embedding"), "weight");
    const Value positions = parameter(graph_, child(model_, "position_embedding"), "weight");
    const Value first =
        graph_("Slice", {positions, graph_.integers({0}), sequences.length, graph_.integers({0})});
    Value x = graph_("Add", {graph_("Gather", {tokens, ids_}), first});
    const Index width = recipe_.model.embedding > 0 ? recipe_.model.embedding : hidden_;
    x = graph_.reshape(x, {-1, width});
    if (const Module* projection = child_or_null(model_, "embedding_projection"))
      x = linear(graph_, x, dynamic_cast<const Linear&>(*projection));
    return {x, sequences, scores_of(false)};
  }

  Rows encode() {
    const Graph::Scope scope(graph_, "image");
    const ImageShape& shape = model_.sizes().image;
    const Value images =
        graph_.input("image", ElementType::u8, {"batch", shape.height, shape.width, shape.channels});
    const Module& part = child(model_, "image");
    const auto& encoder = child<ImageEncoder>(part, "");
    const Value batch = length_of(images, 0);
    Value x = encode_images(graph_, images, shape, encoder);
    Extent extent{shape.height, shape.width};
    encoder.flops(extent);  // flops() changes `extent` to that of the encoder's output
    const Index grid = extent.rows();
    const Sequences sequences{batch, graph_.integers({grid}), ""};
    const Module* positions = child_or_null(part, "position_embedding");
    if (!positions)
      return {sequences.mean(graph_, x, hidden_), {batch, graph_.integers({1}), ""}, scores_of(true)};
    x = graph_("Add", {sequences.apart(graph_, x, hidden_), parameter(graph_, *positions, "weight")});
    return {graph_.reshape(x, {-1, hidden_}), sequences, scores_of(true)};
  }

  // [1, experts]: with separate experts for images and texts, a large negative score for those of the other
  // modality, so that they are never chosen.
  Value scores_of(bool image) {
    if (recipe_.moe.modality_experts != "separate" || !recipe_.data.has_images() || !recipe_.has_texts())
      return "";
    const Index experts = recipe_.moe.experts;
    const Tensor scores = Tensor::zeros({1, experts});
    const Index first = image ? experts / 2 : 0;
    for (Index e = first; e < first + experts / 2; ++e) scores.data<float>()[e] = -1e9F;
    return graph_.tensor(image ? "scores_of_images" : "scores_of_texts", scores);
  }

  // Concatenates the rows of each example's image and then of its text.
  Rows merge(const Rows& images, const Rows& texts) {
    const Sequences &first = images.sequences, &second = texts.sequences;
    Rows both{"", {first.batch, graph_("Add", {first.length, second.length}), ""}};
    const Value one = graph_.tensor("one", Tensor::of<float>({1, 1}, {1}));
    both.sequences.mask = joined({repeated(one, first.batch, first.length, {}), second.mask}, 1);
    both.values = graph_.reshape(
        joined({first.apart(graph_, images.values, hidden_), second.apart(graph_, texts.values, hidden_)}, 1),
        {-1, hidden_});
    if (images.scores.empty()) return both;
    const Index experts = recipe_.moe.experts;
    both.scores = joined({repeated(images.scores, first.batch, first.length, {experts}),
                          repeated(texts.scores, first.batch, second.length, {experts})},
                         1);
    both.scores = graph_.reshape(both.scores, {-1, experts});
    return both;
  }

  Rows transform(Rows rows) {
    Value& x = rows.values;
    Index different = 0;
    while (child_or_null(model_, fmt::format("layers.{}", different))) ++different;
    for (Index i = 0; i < recipe_.model.layers; ++i) {
      const std::string name = fmt::format("layers.{}", i % different);
      const Module& layer = child(model_, name);
      const Graph::Scope scope(graph_, name);
      const Value normal = layer_norm(graph_, x, child<LayerNorm>(layer, "attention_norm"));
      x = graph_("Add", {x, attention(graph_, normal, rows.sequences,
                                      child<MultiHeadAttention>(layer, "attention"))});
      const Value middle = layer_norm(graph_, x, child<LayerNorm>(layer, "feed_forward_norm"));
      const Value fed =
          child_or_null(layer, "moe")
              ? moe(graph_, middle, rows.sequences, rows.scores, child<MoeLayer>(layer, "moe"), name + ".moe")
              : feed_forward(graph_, middle, child<FeedForward>(layer, "feed_forward"));
      x = graph_("Add", {x, fed});
    }
    x = layer_norm(graph_, x, child<LayerNorm>(model_, "final_norm"));
    return rows;
  }

  Value pool(const Rows& rows) {
    return joined({rows.sequences.mean(graph_, rows.values, hidden_),
                   rows.sequences.maximum(graph_, rows.values, hidden_)},
                  1);
  }

  // Processes image and text as separate sequences and combines them.
  Value fuse(const Fusion& fusion, const Rows& image_rows, const Rows& text_rows) {
    Rows images = transform(image_rows), texts = transform(text_rows);
    if (!fusion.image_weight()) return joined({pool(images), pool(texts)}, 1);
    const auto& cross = child<CrossAttention>(fusion, "attention");
    const auto& query = child<Linear>(cross, "query");
    const auto& out = child<Linear>(cross, "out");
    const auto see = [&](const Rows& from, const Rows& to, const char* key_value) {
      const auto parts =
          graph_.several(2, "Split", {linear(graph_, to.values, child<Linear>(cross, key_value))},
                         {{"axis", std::int64_t{1}}});
      return attend(graph_, {hidden_, cross.heads()}, linear(graph_, from.values, query), from.sequences,
                    parts[0], parts[1], to.sequences);
    };
    const Value there =
        graph_("Greater", {texts.sequences.count(graph_), graph_.scalar(0.0F)});  // [batch, 1]
    // An image without a text attends to zeros.
    const Value seen = images.sequences.apart(graph_, see(images, texts, "second.key_value"), hidden_);
    const Value kept =
        graph_("Where", {graph_("Unsqueeze", {there, graph_.integers({2})}), seen, graph_.scalar(0.0F)});
    const Value by_images = linear(graph_, graph_.reshape(kept, {-1, hidden_}), out);
    const Value by_texts = linear(graph_, see(texts, images, "first.key_value"), out);
    images.values = graph_("Add", {images.values, by_images});
    texts.values = graph_("Add", {texts.values, by_texts});
    const auto weight = static_cast<float>(*fusion.image_weight());
    const Value of_images = graph_("Where", {there, graph_.scalar(weight), graph_.scalar(1.0F)});
    const Value of_texts = graph_("Where", {there, graph_.scalar(1 - weight), graph_.scalar(0.0F)});
    return graph_("Add", {graph_("Mul", {pool(images), of_images}), graph_("Mul", {pool(texts), of_texts})});
  }

  // The linear model of tokens and bigrams; must match WideClassifier.
  Value wide() {
    const WideClassifier& model = *model_.wide();
    const Index vocabulary = model_.sizes().vocabulary;
    const auto all = model.bigrams().span<std::int64_t>();
    const std::int64_t end = vocabulary << 32;  // unused entries of bigrams() are larger
    const auto known = all.first(static_cast<std::size_t>(std::ranges::lower_bound(all, end) - all.begin()));
    const BigramTable table = bigram_table(known, vocabulary);
    const auto in_file = [&](const char* name, const std::vector<std::int64_t>& values) {
      return graph_.tensor(name, Tensor::of<std::int64_t>({std::ssize(values)}, values));
    };
    const Value weight = parameter(graph_, model, "weight");
    const auto part = [&](const Value& x, std::int64_t begin, std::int64_t past_end) {
      return graph_("Slice",
                    {x, graph_.integers({begin}), graph_.integers({past_end}), graph_.integers({1})});
    };
    constexpr std::int64_t kEnd = std::numeric_limits<std::int64_t>::max();
    const Value first = part(ids_, 0, -1), second = part(ids_, 1, kEnd);
    const Value place =
        graph_("Add", {graph_("Gather", {in_file("bigram_shift", table.shift), first}), second});
    const Value same =
        graph_("Equal", {graph_("Gather", {in_file("bigram_first", table.first), place}), first});
    const Value is_known = graph_("Mul", {graph_.cast(same, ElementType::f32), part(mask_, 1, kEnd)});
    const Value number = graph_("Add", {graph_("Gather", {in_file("bigram_number", table.number), place}),
                                        graph_.scalar(vocabulary)});
    const auto sum = [&](const Value& rows, const Value& counts) {  // -> [batch, classes]
      const Value counted = graph_(
          "Mul", {graph_("Gather", {weight, rows}), graph_("Unsqueeze", {counts, graph_.integers({2})})});
      return graph_("ReduceSum", {counted, graph_.integers({1})}, {{"keepdims", std::int64_t{0}}});
    };
    const auto count = [&](const Value& counts) {
      return graph_("ReduceSum", {counts, graph_.integers({1})});
    };
    const Value bias = graph_("Gather", {weight, graph_.integers({vocabulary + model.bigrams().numel()})});
    const Value total = graph_("Add", {graph_("Add", {sum(ids_, mask_), sum(number, is_known)}), bias});
    const Value features =
        graph_("Add", {graph_("Add", {count(mask_), count(is_known)}), graph_.scalar(1.0F)});
    const Value factor = graph_(
        "Div", {graph_.scalar(static_cast<float>(WideClassifier::kFeature)), graph_("Sqrt", {features})});
    return graph_("Mul", {total, factor});
  }

  Model& model_;
  const Recipe& recipe_;
  Index hidden_;
  Graph graph_;
  Value ids_, mask_;  // [batch, sequence] i64, f32
};

std::string base64(std::string_view bytes) {
  static constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    const std::size_t count = std::min<std::size_t>(3, bytes.size() - i);
    for (std::size_t j = 0; j < 3; ++j)
      group = group << 8 | (j < count ? static_cast<unsigned char>(bytes[i + j]) : 0U);
    for (std::size_t j = 0; j < 4; ++j) text += j <= count ? kDigits[group >> (18 - 6 * j) & 63] : '=';
  }
  return text;
}

}  // namespace

std::string classifier_file(LoadedModel& loaded) {
  require(loaded.model().classifier() != nullptr,
          "ONNX export: the model was not trained to classify; a model that captions or draws images works "
          "step by step and is not a single graph: export its weights to *.safetensors or *.h5");
  std::map<std::string, std::string> metadata{
      {"recipe_name", loaded.recipe().run.name},
      {"recipe", to_toml(loaded.recipe())},
      {"step", std::to_string(loaded.step())},
      {"class_names", nlohmann::json(loaded.class_names()).dump()},
  };
  if (loaded.tokenizer()) {
    metadata["max_length"] = std::to_string(loaded.recipe().data.max_length);
    metadata["tokenizer"] = base64(loaded.tokenizer()->bytes());
  }
  return Writer(loaded).file(metadata);
}

}  // namespace conclave::onnx
