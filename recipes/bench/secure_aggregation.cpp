// Compares the coordinator's work for secure aggregation with a plain sum of the same updates as they arrive,
// each with all threads: 10^7 parameters from 32 sites, of which 10 drop out. The worst moment to drop out is
// after sharing keys: the other sites' vectors then contain masks shared with the dropped sites, which the
// coordinator must compute. The coordinator's time runs from the first vector to the f32 sum and includes
// processing all messages in between. It excludes the network and the sites' own work, which is reported
// separately. The coordinator verifies no signatures; sites do that.
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "federated/secure_aggregation/coordinator.h"
#include "federated/secure_aggregation/fixed_point.h"
#include "federated/secure_aggregation/site.h"
#include "recipes/bench/bench.h"

namespace conclave::bench {
namespace {

using namespace secure_aggregation;

constexpr std::size_t kLength = 10'000'000, kSites = 32;

std::vector<float> update_of(std::uint32_t site) {
  std::vector<float> update(kLength);
  SeededRandom random{Secret(sha256({std::as_bytes(std::span(&site, 1))}))};
  random.fill(std::as_writable_bytes(std::span(update)));
  for (float& value : update)  // interpret the bits as a number in [-1, 1)
    value = static_cast<float>(std::bit_cast<std::int32_t>(value)) * 0x1p-31f;
  return update;
}

std::vector<float> plain_sum(std::span<const std::vector<float>> updates) {
  std::vector<float> sum(kLength);
  for (const std::vector<float>& update : updates)
#pragma omp parallel for simd schedule(static)
    for (std::size_t i = 0; i < kLength; ++i) sum[i] += update[i];
  return sum;
}

struct Case {
  std::size_t dropped = 10;      // number of sites that drop out, the first ones
  bool with_keys_shared = true;  // true: sites drop out after sharing keys; false: before
  std::uint32_t colluding = 11;  // the maximum if 22 of 32 sites remain
  Ring ring{4};
};

class Round {
 public:
  explicit Round(const Case& what)
      : case_(what),
        agreement_(agreement(what)),
        format_(FixedPoint::choose(what.ring, kSites, 1.0)),
        coordinator_(agreement_) {
    const Identity nobody{[](ByteView) { return Bytes(71); }, [](auto, auto, auto) { return true; }};
    const auto staying = static_cast<std::uint32_t>(what.dropped);  // sites from this index on stay
    const std::uint32_t sharing = what.with_keys_shared ? 0 : staying;
    std::vector<Site> sites;
    for (std::uint32_t site = 0; site < kSites; ++site) sites.emplace_back(agreement_, site, nobody, random_);
    for (Site& site : sites) coordinator_.receive(sent(site.advertise()));
    coordinator_.end_phase();
    for (std::uint32_t site = sharing; site < kSites; ++site)
      coordinator_.receive(sent(sites[site].share(coordinator_.roster())));
    coordinator_.end_phase();

    exact_.resize(kLength);
    RandomBits bits(random_);
    std::vector<double> quantizing, masking;
    Coordinator onward = coordinator_;  // keeps coordinator_ in the state before the first vector
    for (std::uint32_t site = staying; site < kSites; ++site) {
      updates_.push_back(update_of(site));
      std::vector<std::int64_t> words;
      quantizing.push_back(seconds([&] { words = quantize(updates_.back(), format_, bits); }));
      for (std::size_t i = 0; i < kLength; ++i) exact_[i] += words[i];
      masking.push_back(
          seconds([&] { vectors_.push_back(sites[site].mask(coordinator_.delivery(site), words)); }));
      sent(vectors_.back());
      onward.receive(vectors_.back());
    }
    site_seconds_ = {median(quantizing), median(masking)};
    onward.end_phase();
    for (std::uint32_t site = staying; site < kSites; ++site) {
      consents_.push_back(sent(sites[site].consent(onward.survivors(static_cast<std::uint32_t>(site)))));
      onward.receive(consents_.back());
    }
    onward.end_phase();
    for (std::uint32_t site = staying; site < kSites; ++site)
      unmaskings_.push_back(sent(sites[site].unmask(onward.consents(site))));
  }

  RingVector secure_sum(Coordinator coordinator) const {
    for (const MaskedInput& vector : vectors_) coordinator.receive(vector);
    coordinator.end_phase();
    for (const Consent& consent : consents_) coordinator.receive(consent);
    coordinator.end_phase();
    for (const Unmasking& unmasking : unmaskings_) coordinator.receive(unmasking);
    coordinator.end_phase();
    return coordinator.sum();
  }

  void measure(std::int64_t repetitions) const {
    const RingVector sum = secure_sum(coordinator_);
    bool exact = true;
    for (std::size_t i = 0; i < kLength; ++i) exact = exact && sum[i] == exact_[i];
    require(exact, "bench: the sum is not exact");

    std::vector<double> secure, plain, ratios;
    for (std::int64_t i = 0; i < repetitions + 1; ++i) {
      Coordinator coordinator = coordinator_;
      const double before = seconds([&] { plain_sum(updates_); });
      const double time = seconds([&] { dequantize(secure_sum(std::move(coordinator)), format_); });
      const double reference = (before + seconds([&] { plain_sum(updates_); })) / 2;
      if (i == 0) continue;  // the first repetition warms up
      secure.push_back(time);
      plain.push_back(reference);
      ratios.push_back(time / reference);
    }
    const std::string gone = case_.dropped == 0 ? "none gone"
                                                : fmt::format("{} gone {} keys are shared", case_.dropped,
                                                              case_.with_keys_shared ? "after" : "before");
    print_figure(fmt::format("{} sites, {}, {} may collude, {} bits", kSites, gone, case_.colluding,
                             agreement_.ring.bits()),
                 fmt::format("{:.0f} ms / plain sum {:.0f} ms: x{:.2f} (target x3)", 1e3 * median(secure),
                             1e3 * median(plain), median(ratios)));
    print_figure("  exact; a site sends, of the bytes of its f32 update",
                 fmt::format("{:.3f} (target 1.3)", static_cast<double>(bytes_) /
                                                        static_cast<double>(vectors_.size()) /
                                                        (sizeof(float) * kLength)));
    print_figure("  a site's time to quantize, to mask, ms",
                 fmt::format("{:.0f}, {:.0f}", 1e3 * site_seconds_[0], 1e3 * site_seconds_[1]));
  }

 private:
  static Agreement agreement(const Case& what) {
    std::vector<std::string> names;
    for (std::size_t site = 0; site < kSites; ++site) names.push_back(fmt::format("site {}", site));
    Agreement agreement = Agreement::among("bench", 1, names, what.ring, kLength);
    agreement.colluding = what.colluding;
    return agreement;
  }
  template <class Message>
  Message sent(Message message) {
    bytes_ += message.encode().size();
    return message;
  }

  Case case_;
  SystemRandom random_;
  Agreement agreement_;
  FixedPoint format_;
  Coordinator coordinator_;  // state before the first vector
  std::vector<std::vector<float>> updates_;
  std::vector<std::int64_t> exact_;
  std::vector<MaskedInput> vectors_;
  std::vector<Consent> consents_;
  std::vector<Unmasking> unmaskings_;
  std::array<double, 2> site_seconds_;
  std::size_t bytes_ = 0;  // sent by all sites together
};

}  // namespace

void secure_aggregation_sum(std::int64_t repetitions) {
  for (const Case& one :
       {Case{.dropped = 0}, Case{.with_keys_shared = false}, Case{}, Case{.colluding = 3}, Case{.ring = {2}}})
    Round(one).measure(repetitions);
}

}  // namespace conclave::bench
