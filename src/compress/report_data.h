// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "compress/auto_compression.h"
#include "compress/report.h"
#include "deltacome/compress.h"

namespace deltacome {

/// The HTML report of a finished compression; `findings` is empty for methods that try nothing.
ReportData report_data(const CompressReport& report, const AutoFindings& findings);

/// Means over the projections of each kind, in the order in which the kinds first appear.
std::vector<KindSummary> summarize(const ArchiveInfo& archive);

}  // namespace deltacome
