// The program as a user meets it: one line of error, the right exit code, one process or several.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <string>

#include "launch/machine.h"
#include "launch/suggest.h"
#include "tests/support/temporary_directory.h"

namespace fucina {
namespace {

struct Ended {
    int code;
    std::string out, err;
};

Ended run(const std::string& command) {
    const TemporaryDirectory directory;
    const std::string err_path = (directory.path() / "err").string();
    std::FILE* pipe = ::popen((command + " 2>" + err_path).c_str(), "r");
    std::string out;
    std::array<char, 4096> buffer;
    while (const size_t bytes = std::fread(buffer.data(), 1, buffer.size(), pipe)) {
        out.append(buffer.data(), bytes);
    }
    const int status = ::pclose(pipe);
    std::ifstream file(err_path);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, out,
            std::string((std::istreambuf_iterator<char>(file)), {})};
}

const std::string kFucina = FUCINA_BINARY;
const std::string kMpirun = FUCINA_SOURCE_DIR "/launch/mpirun.sh";

TEST(Program, AMistypedCommandGetsOneLine) {
    const Ended ended = run(kFucina + " docter");
    EXPECT_EQ(ended.code, 2);
    EXPECT_EQ(ended.out, "");
    EXPECT_EQ(ended.err,
              "error: there is no command \"docter\"; did you mean \"doctor\"?; `fucina --help` "
              "lists them\n");
}

TEST(Program, AMistypedOptionGetsOneLine) {
    EXPECT_EQ(run(kFucina + " --verison").err,
              "error: fucina has no option \"--verison\"; did you mean \"--version\"?; `fucina "
              "--help` lists them\n");
    const Ended ended = run(kFucina + " report --halp x");
    EXPECT_EQ(ended.code, 2);
    EXPECT_NE(ended.err.find("error: fucina report: does not know \"--halp\"; did you mean "
                             "\"--help\"?"),
              std::string::npos)
        << ended.err;
    EXPECT_EQ(run(kFucina + " report").code, 2);
    EXPECT_EQ(run(kFucina).code, 2);
}

TEST(Program, ANumberThatAnOptionCannotTakeIsNamedWithItsRange) {
    const auto problem = [](const std::string& arguments) {
        const Ended ended = run(kFucina + " " + arguments);
        EXPECT_EQ(ended.code, 2) << arguments;
        return ended.err.substr(0, ended.err.find(';', ended.err.find(';') + 1));
    };
    EXPECT_EQ(problem("generate m --temperature nan"),
              "error: fucina generate: --temperature: is nan; expected a number from 0 to 1000");
    EXPECT_EQ(problem("generate m --temperature inf"),
              "error: fucina generate: --temperature: is inf; expected a number from 0 to 1000");
    EXPECT_EQ(problem("generate m --top-p 1.01"),
              "error: fucina generate: --top-p: is 1.01; expected a number from 0 to 1");
    EXPECT_EQ(problem("generate m --max-tokens 1e3"),
              "error: fucina generate: --max-tokens: is 1e3; expected a number from 1 to 16777216");
    EXPECT_EQ(problem("eval m --sequence-length 99999999999999999999"),
              "error: fucina eval: --sequence-length: is 99999999999999999999; expected a number "
              "from 1 to 16777216");
    EXPECT_EQ(problem("data prepare --vocab-size x"),
              "error: fucina data prepare: --vocab-size: is x; expected a whole number from "
              "-9223372036854775808 to 9223372036854775807");
}

TEST(Program, HelpAndVersionAreNoErrors) {
    EXPECT_EQ(run(kFucina + " --version").out, "fucina 0.1.0\n");
    const Ended help = run(kFucina + " report --help");
    EXPECT_EQ(help.code, 0);
    EXPECT_EQ(help.err, "");
}

TEST(Program, DataErrorsHaveTheirCode) {
    const TemporaryDirectory directory;
    const Ended ended = run(kFucina + " report " + directory.path().string());
    EXPECT_EQ(ended.code, 3);
    EXPECT_EQ(ended.err.find("error: "), 0u);
    EXPECT_EQ(ended.err.find('\n'), ended.err.size() - 1);
}

TEST(Program, RanksThatFailTogetherPrintOneLine) {
    const Ended ended = run(kMpirun + " -np 3 " + kFucina + " docter");
    EXPECT_EQ(ended.code, 2);
    EXPECT_EQ(ended.err.find("error: there is no command \"docter\""), 0u) << ended.err;
    EXPECT_EQ(ended.err.find('\n'), ended.err.size() - 1) << ended.err;
}

TEST(Program, OneRanksErrorEndsTheJobWithItsRankNamed) {
    const Ended ended = run(kMpirun + " -np 1 " + kFucina +
                            " doctor : -np 1 -x FUCINA_THREADS=many " + kFucina + " doctor");
    EXPECT_EQ(ended.code, 2);
    EXPECT_EQ(ended.err,
              "error: rank 1: FUCINA_THREADS=\"many\": expected a number from 1 to 4096\n");
}

TEST(Program, DoctorSpeaksOnceUnderMpirun) {
    const Ended ended = run(kMpirun + " -np 2 " + kFucina + " doctor");
    EXPECT_EQ(ended.code, 0) << ended.err;
    EXPECT_EQ(ended.err, "");
    EXPECT_NE(ended.out.find("running, 2 ranks"), std::string::npos) << ended.out;
    EXPECT_EQ(ended.out.find("processor"), ended.out.rfind("processor"));
}

TEST(Program, DoctorNamesTheRankThatDiffers) {
    const Ended same = run(kMpirun + " -np 2 -x FUCINA_ISA=avx2 " + kFucina + " doctor");
    EXPECT_NE(same.out.find("the same on all ranks: CPU, orders of products"), std::string::npos)
        << same.out;
    EXPECT_NE(same.out.find("same host, 1 link"), std::string::npos) << same.out;
    const Ended ended = run(kMpirun + " -np 2 -x FUCINA_ISA=avx2 " + kFucina +
                            " doctor : -np 1 -x FUCINA_ISA=scalar " + kFucina + " doctor");
    EXPECT_EQ(ended.code, 0) << ended.err;
    EXPECT_NE(ended.out.find("→ rank 2 on "), std::string::npos) << ended.out;
    EXPECT_NE(ended.out.find(": CPU is scalar"), std::string::npos) << ended.out;
}

// Its ranks share no memory to see each other's failure by.
TEST(Program, RunsWhereMpiSharesNoMemory) {
    const std::string mpirun = "OMPI_MCA_osc=^sm " + kMpirun;
    EXPECT_EQ(run(mpirun + " -np 2 " + kFucina + " doctor").code, 0);
    const Ended ended = run(mpirun + " -np 1 " + kFucina +
                            " doctor : -np 1 -x FUCINA_THREADS=many " + kFucina + " doctor");
    EXPECT_EQ(ended.code, 2);
    EXPECT_EQ(ended.err,
              "error: rank 1: FUCINA_THREADS=\"many\": expected a number from 1 to 4096\n");
}

TEST(Program, ThreadsCanBeSetAndAreChecked) {
    EXPECT_NE(run("FUCINA_THREADS=3 " + kFucina + " doctor").out.find("3 threads for this one"),
              std::string::npos);
    const Ended ended = run("FUCINA_THREADS=many " + kFucina + " doctor");
    EXPECT_EQ(ended.code, 2);
    EXPECT_NE(ended.err.find("FUCINA_THREADS=\"many\""), std::string::npos);
    EXPECT_NE(run("taskset -c 0 " + kFucina + " doctor").out.find("1 thread for this one"),
              std::string::npos);
}

// Ctrl-C and TERM at launch/mpirun.sh reach the ranks as SIGUSR2, and their exit code comes back.
TEST(Mpirun, TermAsksTheRanksToSaveAndStop) {
    const TemporaryDirectory directory;
    const std::string rank = (directory.path() / "rank.sh").string();
    std::ofstream(rank) << "trap 'echo saved; sleep 1; exit 15' USR2\necho ready >> "
                        << directory.path().string()
                        << "/ready\nfor i in $(seq 100); do sleep 0.1; done\n";
    const Ended ended =
        run("( " + kMpirun + " -np 2 bash " + rank +
            " & job=$!; for i in $(seq 200); do [ \"$(cat " + directory.path().string() +
            "/ready 2>/dev/null | wc -l)\" = 2 ] && break; sleep 0.05; done; "
            "kill -TERM $job; wait $job )");
    EXPECT_EQ(ended.code, 15);
    EXPECT_EQ(ended.out, "saved\nsaved\n");
    EXPECT_NE(ended.err.find("save and stop"), std::string::npos);
}

TEST(Mpirun, ExitCodesComeBack) {
    EXPECT_EQ(run(kMpirun + " -np 2 sh -c 'exit 7'").code, 7);
    EXPECT_EQ(run(kMpirun + " -np 2 no-such-program").code, 2);
    EXPECT_EQ(run("echo hello | " + kMpirun + " -np 1 cat").out, "hello\n");
}

TEST(Suggest, NearNamesOnly) {
    const std::vector<std::string> names = {"train", "resume", "report"};
    EXPECT_EQ(did_you_mean("tarin", names), "; did you mean \"train\"?");
    EXPECT_EQ(did_you_mean("reprot", names), "; did you mean \"report\"?");
    EXPECT_EQ(did_you_mean("generate", names), "");
    EXPECT_EQ(did_you_mean("", names), "");
    EXPECT_EQ(did_you_mean(std::string(100000, 'x'), names), "");
}

TEST(Machine, HasCoresMemoryAndDisk) {
    EXPECT_GE(affinity_cpus().size(), 1u);
    EXPECT_GE(cgroup_cpu_quota(), 0.0);
    const Memory memory = machine_memory();
    EXPECT_GT(memory.available, 0);
    EXPECT_LE(memory.available, memory.total);
    EXPECT_GT(free_disk_bytes("/"), 0);
    EXPECT_EQ(free_disk_bytes("/nowhere"), -1);
}

}  // namespace
}  // namespace fucina
