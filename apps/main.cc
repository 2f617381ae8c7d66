// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <csignal>
#include <new>

#include "cli.h"
#include "deltacome/error.h"

namespace deltacome::cli {
namespace {

/// A closed standard stream would lend its number to the next file that is opened, and what is
/// printed would land in that file. Output then fails with EBADF instead.
void occupy_standard_streams() {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (fcntl(fd, F_GETFD) == -1 &&
        open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY) < 0)
      return;
  }
}

int report_usage(const CLI::App& program, const CLI::ParseError& error, const char* first) {
  std::string command = "deltacome";
  if (program.get_subcommands().empty() && first != nullptr && *first != '-') {
    note(command + ": unknown command \"" + first + "\"; see deltacome --help");
    return kExitUsage;
  }
  for (const CLI::App* sub : program.get_subcommands()) command += " " + sub->get_name();
  note(command + ": " + error.what() + "; see " + command + " --help");
  return kExitUsage;
}

int run(int argc, char** argv) {
  CLI::App program(
      "Compresses full fine-tunes of language models into small deltas, and runs them.",
      "deltacome");
  program.require_subcommand(1);
  program.set_version_flag("--version", "deltacome " DELTACOME_VERSION);
  program.footer("Exit status: 0 done, 1 failed, 2 wrong usage. See deltacome COMMAND --help.");
  add_compress(program);
  add_inspect(program);
  add_verify(program);
  add_relate(program);
  add_merge(program);
  add_export(program);
  add_diff(program);
  add_card(program);
  add_eval(program);
  add_generate(program);
  add_serve(program);
  add_bench(program);
  try {
    program.parse(argc, argv);
    return kExitOk;
  } catch (const CLI::Success& help_or_version) {
    return program.exit(help_or_version);
  } catch (const CLI::ParseError& error) {
    return report_usage(program, error, argc > 1 ? argv[1] : nullptr);
  } catch (const OutputClosed&) {
    return kExitFailed;
  } catch (const std::bad_alloc&) {
    note("deltacome: out of memory");
  } catch (const std::exception& error) {
    note(std::string("deltacome: ") + error.what());
  }
  return kExitFailed;
}

}  // namespace
}  // namespace deltacome::cli

int main(int argc, char** argv) {
  deltacome::cli::occupy_standard_streams();
  std::signal(SIGPIPE, SIG_IGN);  // a reader that leaves is an error of write(), not a death
  spdlog::set_default_logger(spdlog::stderr_logger_mt("deltacome"));
  return deltacome::cli::run(argc, argv);
}
