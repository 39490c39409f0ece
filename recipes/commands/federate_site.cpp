// conclave federate site: takes part in a federation with this site's data.
#include <sys/stat.h>

#include <ctime>
#include <optional>

#include "core/durable_file.h"
#include "federated/transport/site.h"
#include "recipes/commands/commands.h"
#include "recipes/federated/site_job.h"
#include "recipes/settings/federation.h"

namespace conclave::commands {

int federate_site(const SiteArguments& arguments, const ProcessEnvironment& surroundings,
                  const MpiSession& session) {
  // Hides updates, losses without noise, and what was spent from other users of this machine.
  umask(0077);
  DeviceWorld device = world_for(arguments.device, session);
  const SiteSettings settings = read_site(arguments.site, arguments.overrides, device.world.get());
  std::optional<Kit> kit;  // rank 0's, as are the next two
  std::optional<DirectoryLock> lock;
  std::optional<Site> site;
  if (device.world->rank() == 0) {
    kit = Kit::read(settings.site.kit, std::time(nullptr));
    lock.emplace(settings.site.directory, 3);
    site.emplace(
        SiteOptions{.address = settings.site.address,
                    .directory = settings.site.directory,
                    .patience_seconds = settings.site.patience_seconds,
                    .secure_only = settings.site.secure_only,
                    .least_sites = settings.site.least_sites},
        *kit, [&] { return surroundings.is_interrupted(); }, say);
  }
  SiteJob job(settings, std::move(device.world),
              {.name = arguments.site,
               .trainer = trainer_environment(surroundings),
               .divide =
                   [&](Recipe& recipe, std::unique_ptr<Communicator> world) {
                     return grid_for(recipe, arguments.site, surroundings, std::move(world));
                   },
               .say = say,
               .site = site ? &*site : nullptr,
               .kit = kit ? &*kit : nullptr});
  return job.run() ? 0 : 130;
}

}  // namespace conclave::commands
