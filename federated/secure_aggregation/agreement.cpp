#include "federated/secure_aggregation/agreement.h"

#include <set>

namespace conclave::secure_aggregation {

Agreement Agreement::among(std::string federation, std::uint64_t round, std::vector<std::string> sites,
                           Ring ring, std::uint64_t length) {
  const auto n = static_cast<std::uint32_t>(sites.size());
  const std::uint32_t least = (2 * n + 2) / 3;
  const std::uint32_t colluding = n > kMostSharingWithAll ? n / 20 : n > 0 ? 2 * least - n - 1 : 0;
  Agreement agreement{std::move(federation), round, std::move(sites), least, colluding, ring, length, {}};
  agreement.check();
  return agreement;
}

void Agreement::check() const {
  ring.check();
  require(length > 0 && length <= std::uint64_t{1} << 40, "secure aggregation: vectors of {} words", length);
  require(sites.size() >= 3 && sites.size() <= 1 << 24,
          "secure aggregation: {} sites; expected at least 3, because of two sites each could compute the "
          "other's update from the sum",
          sites.size());
  const std::set<std::string_view> names(sites.begin(), sites.end());
  require(names.size() == sites.size(), "secure aggregation: two of the {} sites have the same name",
          sites.size());
  require(
      least <= sites.size() && std::uint64_t{2} * least > sites.size() + colluding,
      "secure aggregation: at least {0} of {1} sites, of which {2} may collude; expected at most {1}, and "
      "more than ({1} + {2}) / 2, because a coordinator could otherwise have two sets of survivors signed",
      least, sites.size(), colluding);
}

Key Agreement::digest() const {
  WireWriter out;
  out.text("conclave secure aggregation 2").text(federation).u64(round);
  out.u32(static_cast<std::uint32_t>(sites.size()));
  for (const std::string& site : sites) out.text(site);
  out.u32(least).u32(colluding).u8(static_cast<std::uint8_t>(ring.width)).u64(length).text(values);
  return sha256({out.view()});
}

}  // namespace conclave::secure_aggregation
