#include "espalier/report/run_reports.h"

#include <chrono>

#include "espalier/report/html.h"
#include "espalier/report/run_data.h"
#include "espalier/report/tensorboard.h"

namespace espalier::report {

void write_reports(const RunFolder& folder) {
  const RunData run = load_run(folder.path());
  {
    // The run started its wall clock this long ago; a resumed run counts on.
    const double now =
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    const double wall =
        run.metrics.empty() ? 0 : number_in(run.metrics.back(), "wall_seconds").value_or(0);
    EventWriter events(folder.events_path(), now - wall);
    for (const Json& line : run.metrics) events.add(line);
  }
  write_html({run}, folder.report_path());
}

}  // namespace espalier::report
