#include "federated/secure_aggregation/messages.h"

namespace conclave::secure_aggregation {
namespace {

constexpr std::uint8_t kVersion = 2;
enum class Kind : std::uint8_t {
  advertisement = 1,
  roster,
  shares_upload,
  shares_delivery,
  masked_input,
  survivors,
  consent,
  consents,
  unmasking
};
constexpr std::size_t kMostSignature = 1024;  // bytes; a DER signature by P-256 has at most 72

// A prefix separates these signatures from any others that the identity's key might make.
Bytes signed_form(ByteView text) {
  WireWriter out;
  out.text("conclave secure aggregation: signed by a site").raw(text);
  return out.take();
}

WireWriter begin(Kind kind, const Key& context) {
  WireWriter out;
  out.u8(kVersion).u8(static_cast<std::uint8_t>(kind)).raw(context);
  return out;
}

Key read_context(WireReader& in, Kind kind) {
  const int version = in.u8(), found = in.u8();
  require(version == kVersion, "a message of secure aggregation of version {}; this program speaks {}",
          version, kVersion);
  require(found == static_cast<int>(kind),
          "a message of secure aggregation of kind {}, where one of kind {} was expected", found,
          static_cast<int>(kind));
  return in.array<32>();
}

// Reads the numbers of a list that must rise, so that no number occurs twice and there is only one encoding.
class Rising {
 public:
  std::uint32_t next(WireReader& in) {
    const std::uint32_t number = in.u32();
    require(number >= least_, "a list of sites that does not rise at {}", number);
    least_ = std::uint64_t{number} + 1;
    return number;
  }

 private:
  std::uint64_t least_ = 0;
};

void write_signature(WireWriter& out, const Bytes& signature) {
  out.u32(static_cast<std::uint32_t>(signature.size())).raw(signature);
}
Bytes read_signature(WireReader& in) {
  const std::size_t size = in.count(1);
  require(size <= kMostSignature, "a signature of {} bytes", size);
  const ByteView bytes = in.raw(size);
  return {bytes.begin(), bytes.end()};
}

void write_keys(WireWriter& out, const Advertisement& site) {
  out.u32(site.sender).raw(site.encryption_key).raw(site.masking_key);
}
Advertisement read_advertisement(WireReader& in, const Key& context, std::uint32_t sender) {
  Advertisement site{.context = context,
                     .sender = sender,
                     .encryption_key = in.array<32>(),
                     .masking_key = in.array<32>(),
                     .signature = {}};
  site.signature = read_signature(in);
  return site;
}

void write_shares(WireWriter& out, const std::vector<SealedShares>& shares) {
  out.u32(static_cast<std::uint32_t>(shares.size()));
  for (const SealedShares& share : shares)
    out.u32(share.other).raw(share.sealed).raw(share.commitments[0]).raw(share.commitments[1]);
}
std::vector<SealedShares> read_shares(WireReader& in) {
  std::vector<SealedShares> shares(in.count(4 + kSealedShares + 2 * 32));
  Rising others;
  for (SealedShares& share : shares) {
    share.other = others.next(in);
    share.sealed = in.array<kSealedShares>();
    for (Key& commitment : share.commitments) commitment = in.array<32>();
  }
  return shares;
}

void write_receipts(WireWriter& out, const std::vector<Receipt>& receipts) {
  out.u32(static_cast<std::uint32_t>(receipts.size()));
  for (const Receipt& receipt : receipts) out.u32(receipt.other).raw(receipt.token);
}
std::vector<Receipt> read_receipts(WireReader& in) {
  std::vector<Receipt> receipts(in.count(4 + 32));
  Rising others;
  for (Receipt& receipt : receipts) receipt = {others.next(in), in.array<32>()};
  return receipts;
}

WireWriter write_survivors(const Survivors& survivors) {
  WireWriter out = begin(Kind::survivors, survivors.context);
  out.u32(static_cast<std::uint32_t>(survivors.sites.size()));
  for (const std::uint32_t site : survivors.sites) out.u32(site);
  return out;
}

}  // namespace

Bytes Advertisement::signed_text() const {
  WireWriter keys = begin(Kind::advertisement, context);
  write_keys(keys, *this);
  return signed_form(keys.view());
}
Bytes Advertisement::encode() const {
  WireWriter out = begin(Kind::advertisement, context);
  write_keys(out, *this);
  write_signature(out, signature);
  return out.take();
}
Advertisement Advertisement::decode(ByteView bytes) {
  WireReader in(bytes, "advertised keys");
  const Key context = read_context(in, Kind::advertisement);
  const std::uint32_t sender = in.u32();
  Advertisement site = read_advertisement(in, context, sender);
  in.done();
  return site;
}

Key Roster::digest() const { return sha256({encode()}); }
Bytes Roster::encode() const {
  WireWriter out = begin(Kind::roster, context);
  out.u32(static_cast<std::uint32_t>(sites.size()));
  for (const Advertisement& site : sites) {
    write_keys(out, site);
    write_signature(out, site.signature);
  }
  return out.take();
}
Roster Roster::decode(ByteView bytes) {
  WireReader in(bytes, "roster");
  Roster roster{.context = read_context(in, Kind::roster), .sites = {}};
  roster.sites.resize(in.count(4 + 32 + 32 + 4));
  Rising senders;
  for (Advertisement& site : roster.sites) {
    const std::uint32_t sender = senders.next(in);
    site = read_advertisement(in, roster.context, sender);
  }
  in.done();
  return roster;
}

Bytes SharesUpload::encode() const {
  WireWriter out = begin(Kind::shares_upload, context);
  out.u32(sender).raw(commitment);
  write_shares(out, shares);
  return out.take();
}
SharesUpload SharesUpload::decode(ByteView bytes) {
  WireReader in(bytes, "shares of a site");
  SharesUpload upload;
  upload.context = read_context(in, Kind::shares_upload);
  upload.sender = in.u32();
  upload.commitment = in.array<32>();
  upload.shares = read_shares(in);
  in.done();
  return upload;
}

Bytes SharesDelivery::encode() const {
  WireWriter out = begin(Kind::shares_delivery, context);
  write_shares(out, shares);
  return out.take();
}
SharesDelivery SharesDelivery::decode(ByteView bytes) {
  WireReader in(bytes, "shares for a site");
  SharesDelivery delivery;
  delivery.context = read_context(in, Kind::shares_delivery);
  delivery.shares = read_shares(in);
  in.done();
  return delivery;
}

const Key* token_in(const std::vector<Receipt>& receipts, std::uint32_t other) {
  const auto found = std::ranges::lower_bound(receipts, other, {}, &Receipt::other);
  return found != receipts.end() && found->other == other ? &found->token : nullptr;
}

std::size_t MaskedInput::most_head(std::size_t sites) { return 1 + 1 + 32 + 4 + 2 * (4 + sites * (4 + 32)); }
Bytes MaskedInput::encode() const {
  WireWriter out = begin(Kind::masked_input, context);
  out.reserve(most_head(std::max(receipts.size(), expected.size())) + packed.size());
  out.u32(sender);
  write_receipts(out, receipts);
  write_receipts(out, expected);
  out.raw(packed);
  return out.take();
}
MaskedInput MaskedInput::decode(ByteView bytes) {
  WireReader in(bytes, "masked vector");
  MaskedInput input;
  input.context = read_context(in, Kind::masked_input);
  input.sender = in.u32();
  input.receipts = read_receipts(in);
  input.expected = read_receipts(in);
  const ByteView packed = in.rest();
  input.packed.assign(packed.begin(), packed.end());
  return input;
}

Bytes Survivors::signed_text() const { return signed_form(write_survivors(*this).view()); }
Bytes Survivors::encode() const {
  WireWriter out = write_survivors(*this);
  write_receipts(out, receipts);
  return out.take();
}
Survivors Survivors::decode(ByteView bytes) {
  WireReader in(bytes, "survivors");
  Survivors survivors;
  survivors.context = read_context(in, Kind::survivors);
  survivors.sites.resize(in.count(4));
  Rising numbers;
  for (std::uint32_t& site : survivors.sites) site = numbers.next(in);
  survivors.receipts = read_receipts(in);
  in.done();
  return survivors;
}

Bytes Consent::encode() const {
  WireWriter out = begin(Kind::consent, context);
  out.u32(sender);
  write_signature(out, signature);
  return out.take();
}
Consent Consent::decode(ByteView bytes) {
  WireReader in(bytes, "consent");
  Consent consent;
  consent.context = read_context(in, Kind::consent);
  consent.sender = in.u32();
  consent.signature = read_signature(in);
  in.done();
  return consent;
}

Bytes Consents::encode() const {
  WireWriter out = begin(Kind::consents, context);
  out.u32(static_cast<std::uint32_t>(sites.size()));
  for (const Consent& consent : sites) {
    out.u32(consent.sender);
    write_signature(out, consent.signature);
  }
  return out.take();
}
Consents Consents::decode(ByteView bytes) {
  WireReader in(bytes, "consents");
  Consents consents;
  consents.context = read_context(in, Kind::consents);
  consents.sites.resize(in.count(4 + 4));
  Rising senders;
  for (Consent& consent : consents.sites) {
    consent.context = consents.context;
    consent.sender = senders.next(in);
    consent.signature = read_signature(in);
  }
  in.done();
  return consents;
}

Bytes Unmasking::encode() const {
  WireWriter out = begin(Kind::unmasking, context);
  out.u32(sender).u32(static_cast<std::uint32_t>(parts.size()));
  for (const Part& part : parts) out.u32(part.owner).u8(part.dropped).raw(part.share.bytes());
  return out.take();
}
Unmasking Unmasking::decode(ByteView bytes) {
  WireReader in(bytes, "shares to unmask with");
  Unmasking unmasking;
  unmasking.context = read_context(in, Kind::unmasking);
  unmasking.sender = in.u32();
  unmasking.parts.resize(in.count(4 + 1 + 32));
  Rising owners;
  for (Part& part : unmasking.parts) {
    part.owner = owners.next(in);
    const int dropped = in.u8();
    require(dropped <= 1, "shares to unmask with: of kind {}; there are 0 and 1", dropped);
    part.dropped = dropped == 1;
    part.share = Secret(in.array<32>());
  }
  in.done();
  return unmasking;
}

}  // namespace conclave::secure_aggregation
