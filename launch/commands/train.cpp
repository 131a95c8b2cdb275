// `fucina train RECIPE` and `fucina resume RUN_DIR`.
#include <cstdlib>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>

#include "kernels/cuda/runtime.h"
#include "kernels/runtime.h"
#include "launch/commands.h"
#include "launch/process.h"
#include "launch/recipe.h"
#include "launch/run_facts.h"
#include "parallel/agreement.h"
#include "trainer/fault_point.h"
#include "trainer/product_choice.h"
#include "trainer/report/report.h"
#include "trainer/stop_request.h"
#include "trainer/trainer.h"

namespace fucina {
namespace {

struct TrainOptions {
    std::string recipe, run_dir;
    std::vector<std::string> overrides;
    bool fresh = false;
};

void require_same_recipe(Communicator& communicator, const Recipe& recipe) {
    require_same(communicator, recipe_values(recipe), ExitCode::usage,
                 "start all ranks with the same recipe and --set");
}

// After all ranks agree on the recipe and exact.products of an exact run is resolved.
void set_up_process(const Recipe& recipe) {
    const Train& train = recipe.train();
    const int threads = process().use_threads(static_cast<int>(train.threads()));
    const std::string& products = recipe.exact().products();
    set_runtime(threads, train.numerics() == "fast" ? Numerics::fast : Numerics::exact,
                products == "auto" ? ProductOrder::fma : product_order(products));
    install_signal_handlers([] { return process().job_failed(); });
    process().set_watchdog(static_cast<double>(train.watchdog()));
}

void print_lines(Console& console, const std::string& text) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) console.line(line);
}

// "bf16 products in the order vdpbf16".
std::string products_in_words(const Recipe& recipe) {
    if (recipe.train().precision() == "fp32") return "fp32 products";
    return concat(recipe.train().precision() == "fp8" ? "fp8 products, bf16 ones in the order "
                                                      : "bf16 products in the order ",
                  name_of(runtime().products));
}

// "layers over 2 ranks by 1f1b, 3 + 2".
std::string stages_in_words(const TrainingRun& run) {
    std::string text = concat("layers over ", run.mesh->shape().pipeline, " ranks by ",
                              run.recipe.parallel().schedule(), ", ");
    const std::vector<int64_t>& layers = run.model->options().stage_layers;
    for (size_t stage = 0; stage < layers.size(); ++stage)
        text += concat(stage == 0 ? "" : " + ", layers[stage]);
    return text;
}

// "data over 4 ranks, experts over 2 of them, moments shared out".
std::string layout_in_words(const TrainingRun& run) {
    const MeshShape& mesh = run.mesh->shape();
    std::string text = concat("data over ", mesh.data, " ranks");
    if (mesh.pipeline > 1) text = stages_in_words(run) + ", " + text;
    if (mesh.tensor > 1)
        text += concat(", matrices over ", mesh.tensor, " ranks",
                       run.model->options().sequence ? " that share tokens too" : "");
    if (mesh.expert > 1)
        text += concat(", experts over ", mesh.expert, mesh.tensor > 1 ? " ranks" : " of them");
    if (run.optimizer->options().shared_out) text += ", moments shared out";
    return text;
}

void print_start(Console& console, const Recipe& recipe, TrainingRun& run) {
    console.line(concat("machine  ", describe_runtime(), ", ", process().size(), " ranks of ",
                        runtime().threads, " threads, ", products_in_words(recipe)));
    if constexpr (kWithCuda)
        if (run.ranks) console.line("GPU      " + cuda::describe_device());
    if (process().size() > 1) console.line("layout   " + layout_in_words(run));
    const Exact& order = run.recipe.exact();
    if (recipe.train().numerics() == "exact")
        console.line(concat("sums     in grains of ", order.grain(),
                            order.sums() == "integers"
                                ? std::string(", as integers")
                                : concat(" for ", order.replicas(), " replicas"),
                            ", in ", order.chunks(), " chunks"));
    for (const std::string& line : data_card(recipe, run.data)) console.line(line);
    show_example(run.data, console);
    for (const std::string& line : parameter_table(*run.model)) console.line(line);
}

// For launch/mpirun.sh, which tells the way on if a rank is killed.
void note_run(const std::filesystem::path& run) {
    const char* note = std::getenv("FUCINA_RUN_NOTE");
    if (note != nullptr) std::ofstream(note) << run.string();
}

void go(Communicator& communicator, TrainingRun run, Console& console) {
    const std::string dir = run.path.string();
    const bool writes = communicator.rank() == 0;
    fault_point("start", communicator.rank());
    if (writes) note_run(run.path);
    if (writes) write_run_facts(run, process());
    Trainer trainer(std::move(run), console);
    const ExitCode code = trainer.train();
    communicator.progress(Phase::finish);
    fault_point("finish", communicator.rank());
    try {
        if (writes) console.line(concat("report   ", write_report(dir)));
    } catch (const std::exception& error) {  // the run itself is done and saved
        console.line(concat("WARNING: no report: ", error.what()));
    }
    if (code == ExitCode::stopped) {
        fail(ExitCode::stopped, "stopped on request after a save; `fucina resume ", dir,
             "` goes on");
    }
    console.line(concat("done: ", dir));
}

void run_train(const TrainOptions& options) {
    const auto communicator = process().make_communicator();
    Console console(communicator->rank() == 0);
    ResolvedRecipe resolved = load_recipe(options.recipe, options.overrides);
    if (resolved.recipe.data().has_restart()) {
        fail(ExitCode::usage, options.recipe, ": data.restart is for `fucina resume` only");
    }
    require_same_recipe(*communicator, resolved.recipe);
    const bool chosen = resolved.recipe.exact().products() != "auto";
    resolve_products(*communicator, resolved.recipe, R"(take "auto", "fma" or "amx")");
    if (!chosen && resolved.recipe.exact().products() != "auto")
        resolved.origins["exact.products"] = "auto: the fastest that all ranks have";
    set_up_process(resolved.recipe);
    communicator->compare(resolved.recipe.debug().ledger());
    print_lines(console, recipe_listing(resolved));
    NewRun request{.recipe = resolved.recipe,
                   .toml = recipe_toml(resolved.recipe),
                   .spec = {},
                   .fresh = options.fresh};
    if (!resolved.recipe.model().has_from()) {
        request.spec = ModelSpec::from_config(model_json(resolved.recipe), options.recipe);
    }
    TrainingRun run = build_run(*communicator, request, console);
    print_start(console, resolved.recipe, run);
    go(*communicator, std::move(run), console);
}

// A layout changes no number, so a run that goes on with fewer ranks has a shorter pipeline, and
// shares its matrices and experts out among fewer, unless --set says among how many.
void fit_layout(const ResolvedRecipe& resolved, int ranks, Recipe& recipe, Console& console) {
    Parallel& parallel = *recipe.mutable_parallel();
    const auto given = [&](const std::string& key) {
        const auto origin = resolved.origins.find(key);
        return origin != resolved.origins.end() && origin->second == "--set";
    };
    const auto say = [&](const char* key, int64_t before, int64_t now) {
        console.line(concat("changed  ", key, ", ", before, " before and ", now,
                            " from here on: this is ", ranks, ranks == 1 ? " rank" : " ranks"));
    };
    const int64_t stages = std::max<int64_t>(parallel.pipeline(), 1);
    if (const int64_t now = std::gcd(stages, int64_t{ranks});
        now != stages && !given("parallel.pipeline")) {
        parallel.set_pipeline(now);
        parallel.clear_stage_layers();
        say("parallel.pipeline", stages, now);
    }
    const int64_t of_stage =
        std::max<int64_t>(ranks / std::max<int64_t>(parallel.pipeline(), 1), 1);
    const int64_t tensor = std::max<int64_t>(parallel.tensor(), 1);
    if (const int64_t now = std::gcd(tensor, of_stage);
        now != tensor && !given("parallel.tensor")) {
        parallel.set_tensor(now);
        say("parallel.tensor", tensor, now);
    }
    const int64_t expert = parallel.expert(), unit = std::max<int64_t>(parallel.tensor(), 1);
    if (given("parallel.expert")) return;
    if (expert <= 1) return parallel.set_expert(0);  // as many as share the matrices
    int64_t now = expert / unit * unit;
    while (now > unit && of_stage % now != 0) now -= unit;
    if (now == expert) return;
    parallel.set_expert(now);
    say("parallel.expert", expert, now);
}

std::optional<TrainingRun> try_resume(Communicator& communicator, const TrainOptions& options,
                                      ResumePoint& point, Console& console) {
    find_resume_point(communicator, point, console);
    Recipe stored = point.manifest.recipe();
    if (stored.train().numerics() != "fast")
        stored.mutable_exact()->set_products(stored_products(stored));
    const ResolvedRecipe resolved =
        parse_recipe(recipe_toml(stored), point.checkpoint.string(), options.overrides);
    Recipe recipe = resolved.recipe;
    recipe.mutable_run()->set_dir(options.run_dir);
    fit_layout(resolved, communicator.size(), recipe, console);
    require_same_recipe(communicator, recipe);
    check_resumable(point.manifest, recipe);
    resolve_products(communicator, recipe,
                     "resume on a CPU that has it, or go on here with other bits than there: --set "
                     "exact.products=fma");
    set_up_process(recipe);
    for (const auto& [key, origin] : resolved.origins) {
        if (origin == "--set") console.line(concat("changed  ", key));
    }
    if (recipe.train().numerics() != "fast" &&
        recipe.exact().products() != stored.exact().products()) {
        console.line(concat("products ", recipe.exact().products(), " from here on, ",
                            stored.exact().products(), " before: other bits from here on"));
    }
    Recipe kept = recipe;
    kept.mutable_data()->clear_restart();
    return build_resumed_run(communicator, point, recipe, recipe_toml(kept), console);
}

void run_resume(const TrainOptions& options) {
    const auto communicator = process().make_communicator();
    Console console(communicator->rank() == 0);
    install_signal_handlers([] { return process().job_failed(); });
    ResumePoint point = open_for_resume(*communicator, options.run_dir);
    std::optional<TrainingRun> run;
    while (!run) run = try_resume(*communicator, options, point, console);
    communicator->compare(run->recipe.debug().ledger());
    console.line(concat("resumed ", run->path.string(), " after step ", run->step));
    print_start(console, run->recipe, *run);
    if (run->step == run->recipe.train().steps())
        console.line(concat("nothing is left to do: the run is at step ", run->step, " of ",
                            run->step, "; --set train.steps=N goes on to step N"));
    go(*communicator, std::move(*run), console);
}

}  // namespace

void add_train_command(Command app) {
    Command command = app.subcommand("train", "Train a model as a recipe says");
    auto options = std::make_shared<TrainOptions>();
    command.option("recipe", options->recipe, "recipe, a TOML file").path().required();
    command.option("--set", options->overrides, "path=value: override a value of the recipe")
        .one_word();
    command.flag("--fresh", options->fresh,
                 "if run.dir holds an earlier run, move it aside and begin anew");
    command.run([options] { run_train(*options); });
}

void add_resume_command(Command app) {
    Command command = app.subcommand("resume", "Go on with a run from its newest valid checkpoint");
    auto options = std::make_shared<TrainOptions>();
    command.option("run_dir", options->run_dir, "the run's directory").path().required();
    command.option("--set", options->overrides, "path=value: change a value of the recipe")
        .one_word();
    command.run([options] { run_resume(*options); });
}

}  // namespace fucina
