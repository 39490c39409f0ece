// Malformed messages of every kind are refused.
#include <catch2/catch.hpp>

#include "core/random.h"
#include "federated/secure_aggregation/messages.h"

using namespace conclave;
using namespace conclave::secure_aggregation;

namespace {

const Key kContext = sha256({});

std::vector<Bytes> examples() {
  const Advertisement keys{kContext, 3, sha256({kContext}), Key{}, Bytes(70, std::byte{7})};
  Advertisement others = keys;
  others.sender = 9;
  others.signature.clear();
  const std::vector<SealedShares> shares = {{1, {}, {kContext, Key{}}}, {4, {}, {}}};
  return {
      keys.encode(),
      Roster{kContext, {keys, others}}.encode(),
      SharesUpload{kContext, 3, Key{}, shares}.encode(),
      SharesDelivery{kContext, shares}.encode(),
      MaskedInput{kContext, 3, {{1, kContext}, {4, {}}}, {{1, {}}, {4, kContext}}, Bytes(12, std::byte{1})}
          .encode(),
      Survivors{kContext, {0, 2, 3}, {{0, kContext}, {3, {}}}}.encode(),
      Consent{kContext, 3, Bytes(70)}.encode(),
      Consents{kContext, {{kContext, 1, Bytes(70)}, {kContext, 2, Bytes(71)}}}.encode(),
      Unmasking{kContext, 3, {{1, false, Secret(kContext)}, {2, true, Secret()}}}.encode()};
}

using Decode = Bytes (*)(ByteView);
template <class Message>
Bytes again(ByteView bytes) {
  return Message::decode(bytes).encode();
}
constexpr Decode kDecode[] = {again<Advertisement>,  again<Roster>,      again<SharesUpload>,
                              again<SharesDelivery>, again<MaskedInput>, again<Survivors>,
                              again<Consent>,        again<Consents>,    again<Unmasking>};

bool refused_or_same(Decode decode, const Bytes& bytes) {
  try {
    return decode(bytes) == bytes;
  } catch (const Error&) {
    return true;
  }
}

}  // namespace

TEST_CASE("secure messages: decoding keeps a message and refuses other kinds") {
  const auto messages = examples();
  for (std::size_t kind = 0; kind < messages.size(); ++kind)
    for (std::size_t as = 0; as < messages.size(); ++as) {
      CAPTURE(kind, as);
      if (kind == as)
        CHECK(kDecode[as](messages[kind]) == messages[kind]);
      else
        CHECK_THROWS_WITH(kDecode[as](messages[kind]), Catch::Contains("was expected"));
    }
}

TEST_CASE("secure messages: a wrong length, version or number is refused") {
  const auto messages = examples();
  for (std::size_t kind = 0; kind < messages.size(); ++kind) {
    CAPTURE(kind);
    const Bytes& good = messages[kind];
    const bool any_length = kind == 4;  // MaskedInput: the coordinator checks its length
    for (std::size_t size = 0; size < good.size(); ++size)
      if (!any_length || size < MaskedInput::most_head(2))
        CHECK_THROWS_AS(kDecode[kind](ByteView(good).first(size)), Error);
    Bytes bad = good;
    bad.push_back({});
    if (!any_length) CHECK_THROWS_WITH(kDecode[kind](bad), Catch::Contains("too many"));
    bad = good;
    bad[0] = std::byte{1};
    CHECK_THROWS_WITH(kDecode[kind](bad), Catch::Contains("version 1"));
    // Four bytes of 0xFF anywhere: a length or number out of range, or bytes that may have any value.
    for (std::size_t at = 34; at + 4 <= good.size(); ++at) {
      bad = good;
      std::fill_n(bad.begin() + static_cast<std::ptrdiff_t>(at), 4, std::byte{0xFF});
      CHECK(refused_or_same(kDecode[kind], bad));
    }
  }
}

TEST_CASE("secure messages: a list that is too long or does not rise is refused") {
  WireWriter huge;
  huge.u8(2).u8(6).raw(kContext).u32(0xFFFFFFFF);
  CHECK_THROWS_WITH(Survivors::decode(huge.view()), Catch::Contains("announces 4294967295 items"));
  CHECK_THROWS_WITH(Survivors::decode(Survivors{kContext, {2, 2}}.encode()),
                    Catch::Contains("does not rise"));
  CHECK_THROWS_WITH(Survivors::decode(Survivors{kContext, {2, 1}}.encode()),
                    Catch::Contains("does not rise"));
  CHECK_THROWS_WITH(Consent::decode(Consent{kContext, 1, Bytes(1025)}.encode()),
                    Catch::Contains("a signature of 1025 bytes"));
  Bytes unmasking = Unmasking{kContext, 3, {{1, false, Secret()}}}.encode();
  unmasking[34 + 4 + 4 + 4] = std::byte{2};
  CHECK_THROWS_WITH(Unmasking::decode(unmasking), Catch::Contains("of kind 2"));
}

TEST_CASE("secure messages: changed bytes are refused or give a valid message") {
  const auto messages = examples();
  const RandomStream random{.seed = 6};
  for (std::uint64_t i = 0; i < 20'000; ++i) {
    const std::size_t kind = random.below(messages.size(), 8 * i);
    Bytes bytes = messages[kind];
    for (std::uint64_t change = 0; change <= random.below(3, 8 * i + 1); ++change)
      bytes[random.below(bytes.size(), 8 * i + 2 + change)] =
          static_cast<std::byte>(random.below(256, 8 * i + 5));
    REQUIRE(refused_or_same(kDecode[kind], bytes));
  }
}
