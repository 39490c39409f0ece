#include "recipes/inference/caption_writer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace conclave {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

void check(const CaptionOptions& options, std::int64_t max_length) {
  require(options.beam >= 1, "a beam of {} texts; 1 is the least", options.beam);
  require(options.top_p >= 0 && options.top_p <= 1, "top_p = {} is not from 0 to 1", options.top_p);
  require(options.top_p == 0 || options.beam == 1, "beam and top_p exclude each other: give one of them");
  require(options.temperature > 0, "a temperature of {} is not above 0", options.temperature);
  require(options.max_tokens >= 0 && options.max_tokens <= max_length,
          "captions of {} tokens, but the model was trained on texts of at most {}", options.max_tokens,
          max_length);
}

Captioner& captioner_of(LoadedModel& model) {
  Captioner* captioner = model.model().captioner();
  require(captioner != nullptr,
          "the model was not trained to caption images; train one with --set tasks.caption=1");
  return *captioner;
}

std::vector<std::uint8_t> spelling_tokens(const LoadedModel& model) {
  std::vector<std::uint8_t> may_write;
  for (std::int32_t id = 0; model.tokenizer() && id < model.tokenizer()->vocabulary(); ++id)
    may_write.push_back(model.tokenizer()->spells(id) ? 1 : 0);
  return may_write;
}

double penalized(double log_probability, std::size_t tokens, double length_penalty) {
  return log_probability / std::pow((5 + static_cast<double>(tokens)) / 6, length_penalty);
}

}  // namespace

CaptionWriter::CaptionWriter(Captioner& captioner, std::vector<std::uint8_t> may_write,
                             std::int64_t max_length, Device device)
    : captioner_(captioner),
      may_write_(std::move(may_write)),
      max_length_(max_length),
      device_(device),
      activations_(std::in_place, "activations", 0, device) {
  may_write_.at(static_cast<std::size_t>(captioner.end_token())) = 0;  // not within a text
  require(std::ranges::count(may_write_, 0) < std::ssize(may_write_), "captions: no token may be written");
}

CaptionWriter::CaptionWriter(LoadedModel& model, const ProcessGrid& grid)
    : CaptionWriter(captioner_of(model), spelling_tokens(model), model.recipe().data.max_length,
                    grid.device()) {}

std::vector<WrittenCaption> CaptionWriter::write(const Tensor& pixels, const CaptionOptions& options,
                                                 std::int64_t first) {
  std::vector<WrittenCaption> captions(static_cast<std::size_t>(pixels.size(0)));
  begin(pixels, options, first, captions);
  while (step()) {
  }
  return captions;
}

void CaptionWriter::begin(const Tensor& pixels, const CaptionOptions& options, std::int64_t first,
                          std::span<WrittenCaption> captions) {
  check(options, max_length_);
  require(pixels.size(0) == std::ssize(captions), "captions: room for {}, but there are {} images",
          captions.size(), pixels.size(0));
  pixels_ = pixels, options_ = options, first_ = first, captions_ = captions;
  most_ = options.max_tokens > 0 ? options.max_tokens : max_length_;
  done_ = 0, written_ = 0;
}

bool CaptionWriter::step() {
  const auto done = static_cast<std::size_t>(done_);
  if (done == captions_.size()) return false;
  const std::size_t some = std::max<std::size_t>(kTexts / static_cast<std::size_t>(options_.beam), 1);
  const auto captions = captions_.subspan(done, std::min(some, captions_.size() - done));
  const bool begins = written_ == 0;
  if (begins) begin_some(captions.size());
  {
    const ArenaScope scope(*activations_);
    Tape tape(*activations_, false);
    if (!planning_ || !(begins || written_ + 1 == most_)) tape.stop_planning();
    ForwardContext context{.training = false, .stream = {}};
    const Tensor logits =
        begins ? captioner_.first(tape, context, pixels_.rows(done_, done_ + std::ssize(captions)), *cache_)
               : captioner_.next(tape, context, tokens_, parents_, written_ - 1, *cache_);
    score(tape.on_host(logits), !begins && !planning_);  // planned texts get as long as possible
  }
  append_tokens(captions);
  if (unfinished_ > 0) return true;
  done_ += std::ssize(captions), written_ = 0;
  return done_ < std::ssize(captions_);
}

// A beam of one has the most images for as many texts. The first pass, over the images, and the last one,
// with the longest texts, need the most memory; those between them are not planned, which takes longer.
std::size_t CaptionWriter::plan(Index image_bytes) {
  const auto images = static_cast<Index>(kTexts);
  cache_.reset();
  activations_.emplace("activations", 0, device_);
  planning_ = true;
  write(Tensor::zeros({images, image_bytes}, DType::u8), {});
  planning_ = false;
  cache_.reset();
  activations_->reset();
  activations_->seal(std::size_t{1} << 16, 0.02);
  return activations_->capacity();
}

void CaptionWriter::reserve(std::size_t texts, std::size_t images) {
  const auto length = static_cast<std::size_t>(max_length_);
  for (std::vector<Unfinished>* const all : {&texts_, &next_}) {
    if (all->size() < texts) all->resize(texts);
    for (Unfinished& text : *all) text.written.tokens.reserve(length);
  }
  tokens_.reserve(texts), parents_.reserve(texts), candidates_.reserve(texts + 1);
  best_.assign(images, {kNever, 0});
}

void CaptionWriter::begin_some(std::size_t images) {
  const std::size_t texts = images * static_cast<std::size_t>(options_.beam);
  activations_->reset();
  cache_.emplace(captioner_.cache(*activations_, static_cast<Index>(texts), most_));
  reserve(texts, images);
  for (std::size_t image = 0; image < images; ++image) {
    texts_[image].image = image;
    texts_[image].written.tokens.clear();
    texts_[image].written.log_probability = 0;
  }
  unfinished_ = images;
}

// Adds a token to each text by the scores. Afterwards tokens_ and parents_ describe the unfinished texts.
void CaptionWriter::append_tokens(std::span<WrittenCaption> captions) {
  const auto beam = static_cast<std::size_t>(options_.beam);
  tokens_.clear(), parents_.clear();
  // All texts of an image are neighbours.
  for (std::size_t begin = 0, end = 0; begin < unfinished_; begin = end) {
    const std::size_t image = texts_[begin].image;
    while (end < unfinished_ && texts_[end].image == image) ++end;
    if (options_.top_p > 0) {
      const RandomStream stream{.seed = options_.seed, .step = static_cast<std::uint32_t>(written_)};
      const double uniform = stream.uniform(static_cast<std::uint64_t>(first_ + done_) + image);
      candidates_.assign(1, draw(begin, uniform));
    } else {
      find_likeliest(begin, end, beam - best_[image].finished);
    }
    for (const Candidate& candidate : candidates_) {
      Unfinished& text = next_[tokens_.size()];
      text = texts_[candidate.text];
      text.written.log_probability = candidate.log_probability;
      const bool ends = candidate.token == captioner_.end_token();
      if (!ends) text.written.tokens.push_back(candidate.token);
      if (ends || written_ + 1 == most_) {
        finish(text, ends, captions[image]);
        continue;
      }
      tokens_.push_back(candidate.token);
      parents_.push_back(static_cast<std::int32_t>(candidate.text));
    }
  }
  std::swap(texts_, next_);
  unfinished_ = tokens_.size();
  ++written_;
}

// Keeps the text as its image's caption unless a better one is finished already.
void CaptionWriter::finish(const Unfinished& text, bool ended, WrittenCaption& caption) {
  Best& best = best_[text.image];
  ++best.finished;
  const double score = penalized(text.written.log_probability, text.written.tokens.size() + (ended ? 1 : 0),
                                 options_.length_penalty);
  if (score <= best.score) return;
  best.score = score;
  caption.tokens.reserve(static_cast<std::size_t>(max_length_));
  caption = text.written;
}

// Turns logits into log probabilities among the allowed tokens: those that may be written and, if `may_end`,
// the end.
void CaptionWriter::score(const Tensor& logits, bool may_end) {
  const Index texts = logits.size(0), vocabulary = logits.size(1);
  const auto end = static_cast<std::size_t>(captioner_.end_token());
  scores_.resize(static_cast<std::size_t>(logits.numel()));
#pragma omp parallel for schedule(static)
  for (Index text = 0; text < texts; ++text) {
    const float* logit = logits.data<float>() + text * vocabulary;
    double* scores = scores_.data() + text * vocabulary;
    double most = kNever, sum = 0;
    for (std::size_t token = 0; token < may_write_.size(); ++token) {
      const bool allowed = may_write_[token] != 0 || (token == end && may_end);
      scores[token] = allowed ? static_cast<double>(logit[token]) : kNever;
      most = std::max(most, scores[token]);
    }
    for (std::size_t token = 0; token < may_write_.size(); ++token) sum += std::exp(scores[token] - most);
    const double all = most + std::log(sum);
    for (std::size_t token = 0; token < may_write_.size(); ++token) scores[token] -= all;
  }
}

void CaptionWriter::find_likeliest(std::size_t begin, std::size_t end, std::size_t most) {
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.log_probability > b.log_probability;
  };
  std::vector<Candidate>& found = candidates_;  // the likeliest first; of equals, the first one found
  found.clear();
  for (std::size_t text = begin; text < end; ++text) {
    const double before = texts_[text].written.log_probability;
    const double* scores = scores_.data() + text * may_write_.size();
    for (std::size_t token = 0; token < may_write_.size(); ++token) {
      const Candidate candidate{text, static_cast<std::int32_t>(token), before + scores[token]};
      if (scores[token] == kNever || (found.size() == most && !likelier(candidate, found.back()))) continue;
      if (found.size() == most) found.pop_back();
      found.insert(std::ranges::upper_bound(found, candidate, likelier), candidate);
    }
  }
}

CaptionWriter::Candidate CaptionWriter::draw(std::size_t text, double uniform) {
  const double* scores = scores_.data() + text * may_write_.size();
  order_.resize(may_write_.size());
  std::iota(order_.begin(), order_.end(), 0);
  std::ranges::sort(order_, [&](std::int32_t a, std::int32_t b) {
    return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
  });
  weights_.resize(order_.size());
  for (std::size_t i = 0; i < order_.size(); ++i)
    weights_[i] = std::exp((scores[order_[i]] - scores[order_[0]]) / options_.temperature);
  const double wanted = options_.top_p * std::accumulate(weights_.begin(), weights_.end(), 0.0);
  std::size_t nucleus = 0;
  double sum = 0;
  while (nucleus < weights_.size() && (nucleus == 0 || sum < wanted)) sum += weights_[nucleus++];
  std::size_t drawn = 0;
  for (double left = uniform * sum - weights_[0]; left >= 0 && drawn + 1 < nucleus; left -= weights_[drawn])
    ++drawn;
  // With top_p = 1, rounding may select a token of weight 0.
  while (weights_[drawn] == 0) --drawn;
  return {text, order_[drawn], texts_[text].written.log_probability + scores[order_[drawn]]};
}

}  // namespace conclave
