#include <fmt/format.h>
#include <google/protobuf/text_format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>
#include <optional>

#include "data/file.h"
#include "kernels/error.h"
#include "model/generation.h"
#include "parallel/agreement.h"
#include "trainer/manifest.h"
#include "trainer/run.h"
#include "trainer/run_mesh.h"
#include "trainer/run_model.h"
#include "trainer/weights.h"

namespace fucina {
namespace {

namespace fs = std::filesystem;

DamageReport warn_of_damage(Console& console) {
    return [&](const fs::path& dir, const std::string& why) {
        console.line(
            concat("WARNING: checkpoint ", dir.string(), " is damaged and is passed over: ", why));
    };
}

// Where the weights of a new run come from.
class Origin {
  public:
    Origin(const NewRun& request, Console& console)
        : request_(request), console_(console), from_(request.recipe.model().from()) {
        if (from_.empty()) {
            spec_ = *request.spec;
        } else if (fs::exists(from_ / "config.json")) {
            spec_ = read_model_spec(from_);
            file_.emplace(from_);
            say(settle_head(spec_, *file_));
        } else {
            checkpoint_ = find_checkpoint(from_, warn_of_damage(console));
            const Manifest manifest = read_manifest(checkpoint_);
            spec_ = saved_spec(manifest, checkpoint_);
        }
    }

    ModelSpec& spec() { return spec_; }

    void fill(Model& model) const {
        model.initialize(static_cast<uint64_t>(request_.recipe.train().seed()),
                         from_.empty() ? "" : "mtp.");  // which the source need not have
        if (from_.empty()) {
            model.repack();
        } else if (checkpoint_.empty()) {
            for (const std::string& note : load_weights(model, *file_)) say(note);
        } else {
            load_weights(checkpoint_, model);
            model.repack();
        }
    }

  private:
    void say(const std::string& note) const {
        if (!note.empty()) console_.line(note);
    }

    const NewRun& request_;
    Console& console_;
    const fs::path from_;
    std::optional<TensorFile> file_;  // of Hugging Face weights
    fs::path checkpoint_;
    ModelSpec spec_;
};

// What every rank makes or loads by itself; of a tensor, among those that hold the same of it.
void require_same_model(const Mesh& mesh, Model& model) {
    if (mesh.world().size() == 1) return;
    const auto hashed = [](std::string_view bytes) { return "of hash " + content_hash(bytes); };
    const std::string otherwise = "every rank must read the same model.from";
    require_same(mesh.world(), {{"the model's config", hashed(model.spec().to_config().dump())}},
                 ExitCode::replica_mismatch, otherwise);
    std::map<Communicator*, Facts> facts;
    for (const Parameter* parameter : model.parameters()) {
        const Tensor master = on_host(parameter->exec, parameter->master());
        const std::span<std::byte> value = master.memory();
        const std::string hash =
            hashed({reinterpret_cast<const char*>(value.data()), value.size()});
        for (Communicator* holders : master_holders(mesh, *parameter))
            facts[holders].emplace_back(parameter->name, hash);
    }
    for (Communicator* holders : {&mesh.tensor(), &mesh.data(), &mesh.expert_data()})
        require_same(*holders, facts[holders], ExitCode::replica_mismatch, otherwise);
}

void start_log(TrainingRun& run, const std::string& toml, Console& console) {
    write_text_file(run.path / "recipe.resolved.toml", toml);
    console.open_log((run.path / "log.txt").string());
}

}  // namespace

std::vector<NamedTensor> TrainingRun::state() const {
    std::vector<NamedTensor> tensors;
    for (Parameter* parameter : model->all_parameters()) {
        tensors.push_back(named("weight", *parameter, parameter->master(), parameter->master_box(),
                                parameter->shard.defined()));
    }
    const bool shared_out = optimizer->options().shared_out;
    const auto add = [&](const Parameter& parameter, const Optimizer::State& state) {
        tensors.push_back(named("m", parameter, state.m, state.box, shared_out));
        tensors.push_back(named("v", parameter, state.v, state.box, shared_out));
    };
    auto own = optimizer->states().begin();
    for (Parameter* parameter : model->all_parameters()) {
        if (!parameter->trained) continue;
        const bool here = own != optimizer->states().end() && own->parameter == parameter;
        add(*parameter, here ? *own++ : optimizer->fresh_state(*parameter));
    }
    return tensors;
}

TrainingRun build_run(Communicator& communicator, const NewRun& request, Console& console) {
    TrainingRun run;
    run.ranks = on_device(communicator, request.recipe.run().device(),
                          [&](const std::string& note) { console.line(note); });
    run.mesh = make_mesh(run.ranks ? *run.ranks : communicator, request.recipe);
    run.recipe = request.recipe;
    run.path = request.recipe.run().dir();
    const bool first = communicator.rank() == 0;
    agree(communicator, [&] {
        if (first) RunDirectory::check_free(run.path, request.fresh);
    });
    std::unique_ptr<Origin> origin;
    agree(communicator, [&] { origin = std::make_unique<Origin>(request, console); });
    check_positions(run.recipe.data().sequence_length(), origin->spec(), "data.sequence_length",
                    ExitCode::usage);
    run.data = open_run_data(communicator, run.recipe, origin->spec().vocab_size, console);
    adopt_ends(origin->spec(), run.data.ends, console);
    agree(communicator, [&] {
        run.model = make_model(origin->spec(), *run.mesh, run.recipe);
        origin->fill(*run.model);
    });
    require_same_model(*run.mesh, *run.model);
    run.optimizer = make_optimizer(*run.model, *run.mesh, run.recipe);
    agree(communicator, [&] {
        if (!first) return;
        std::string moved_to;
        run.directory = RunDirectory::create(run.path, request.fresh, moved_to);
        if (!moved_to.empty()) {
            console.line(fmt::format("moved the earlier run to {}", moved_to));
        }
        start_log(run, request.toml, console);
    });
    return run;
}

ResumePoint open_for_resume(Communicator& communicator, const fs::path& path) {
    ResumePoint point;
    point.path = path;
    agree(communicator, [&] {
        if (communicator.rank() != 0) return;
        point.directory = RunDirectory::open(path);
        remove_leftovers(path);
    });
    return point;
}

void find_resume_point(Communicator& communicator, ResumePoint& point, Console& console) {
    std::string found;
    agree(communicator, [&] {
        if (communicator.rank() != 0) return;
        const auto tell = warn_of_damage(console);
        try {
            std::vector<fs::path> more;
            const auto report = [&](const fs::path& dir, const std::string& why) {
                tell(dir, why);
                more.push_back(dir);
            };
            found = find_checkpoint(point.path, report, point.damaged).string();
            point.damaged.insert(point.damaged.end(), more.begin(), more.end());
        } catch (const Error& error) {
            if (error.code() != ExitCode::no_checkpoint) throw;
            fail(ExitCode::no_checkpoint, error.what(), "; `fucina train ",
                 (point.path / "recipe.resolved.toml").string(), " --fresh` begins anew");
        }
    });
    point.checkpoint = first_text(communicator, found);
    agree(communicator, [&] { point.manifest = read_manifest(point.checkpoint); });
    require_same(communicator,
                 {{point.checkpoint.string(),
                   concat("of hash ", content_hash(point.manifest.SerializeAsString()))}},
                 ExitCode::data, "every rank must see the same run directory");
}

// What decides which sequences next_sample counts, and has changed: "train.seed was 0 and is now
// 7". Checkpoints without an order or hashes are older than these.
std::string changed_order(const RunData& data, const Recipe& recipe, const Manifest& manifest) {
    std::string changes;
    const auto add = [&](const auto&... parts) {
        changes += concat(changes.empty() ? "" : ", ", parts...);
    };
    const auto compare = [&](const char* key, const auto& then, const auto& now) {
        if (then != now) add(key, " was ", then, " and is now ", now);
    };
    const SampleOrder now = data.train_order();
    const SampleOrder& then = manifest.has_order() ? manifest.order() : now;
    compare("the rule of packing and order", then.rules(), now.rules());
    compare("data.shuffle", then.shuffle() ? "true" : "false", now.shuffle() ? "true" : "false");
    if (then.shuffle() == now.shuffle()) compare("train.seed", then.seed(), now.seed());
    compare("data.sequence_length", then.sequence_length(), now.sequence_length());
    const auto& sources = recipe.data().train();
    const auto& old = manifest.recipe().data().train();
    const std::vector<std::string> hashes = data.train_hashes();
    compare("the number of sources in data.train", manifest.data_hashes_size(), sources.size());
    for (int i = 0; i < std::min({old.size(), sources.size(), manifest.data_hashes_size()}); ++i) {
        if (hashes[static_cast<size_t>(i)] == manifest.data_hashes(i)) continue;
        if (old[i].path() != sources[i].path()) {
            add("source ", i + 1, " of data.train was ", old[i].path(), " and is now ",
                sources[i].path());
        }
    }
    if (changes.empty() && !std::equal(then.shares().begin(), then.shares().end(),
                                       now.shares().begin(), now.shares().end())) {
        for (int i = 0; i < sources.size(); ++i) {
            compare("the weight in data.train", old[i].weight(), sources[i].weight());
        }
    }
    return changes;
}

void check_tokenizer(const RunData& data, const Data& recipe, const Manifest& manifest) {
    if (data.tokenizer_hash() != manifest.tokenizer_hash()) {
        fail(ExitCode::usage, recipe.tokenizer(), ": the tokenizer's hash is ",
             data.tokenizer_hash(), ", the run was made with ", manifest.tokenizer_hash());
    }
}

// A position in other data, or in another order, would be a silent jump.
void check_same_data(const RunData& data, const Recipe& recipe, const Manifest& manifest) {
    const std::string changes = changed_order(data, recipe, manifest);
    if (!changes.empty() && manifest.data_hashes_size() > 0) {
        fail(
            ExitCode::usage, changes, ": sample ", manifest.next_sample(),
            ", where the run goes on, would be another; undo it, or begin the data anew with --set "
            "data.restart=true");
    }
    const std::vector<std::string> hashes = data.train_hashes();
    for (int i = 0; i < manifest.data_hashes_size(); ++i) {
        if (hashes[static_cast<size_t>(i)] == manifest.data_hashes(i)) continue;
        fail(ExitCode::data, recipe.data().train(i).path(), ": its tokens hash to ",
             hashes[static_cast<size_t>(i)], ", those of the run so far to ",
             manifest.data_hashes(i),
             "; bring the old data back, or begin the data anew with --set data.restart=true");
    }
}

// What is damaged, or nothing once every tensor is filled. On any rank whatever else goes wrong
// comes first: it ends the resume and leaves the checkpoints as they are.
std::string load_or_find_damage(Communicator& communicator, const ResumePoint& point,
                                std::span<const NamedTensor> tensors) {
    std::string damage;
    agree(communicator, [&] {
        try {
            load_tensors(point.checkpoint, point.manifest, tensors);
        } catch (const DamagedFile& error) {
            damage = error.what();
        }
    });
    return first_text(communicator, damage);
}

std::optional<TrainingRun> build_resumed_run(Communicator& communicator, ResumePoint& point,
                                             const Recipe& recipe, const std::string& toml,
                                             Console& console) {
    TrainingRun run;
    run.ranks = on_device(communicator, recipe.run().device(),
                          [&](const std::string& note) { console.line(note); });
    run.mesh = make_mesh(run.ranks ? *run.ranks : communicator, recipe);
    run.recipe = recipe;
    run.path = point.path;
    agree(communicator, [&] {
        const ModelSpec spec = saved_spec(point.manifest, point.checkpoint);
        run.model = make_model(spec, *run.mesh, run.recipe);
    });
    run.data = open_run_data(communicator, recipe, run.model->spec().vocab_size, console);
    check_tokenizer(run.data, recipe.data(), point.manifest);
    const bool restarts = recipe.data().restart();
    if (!restarts) check_same_data(run.data, recipe, point.manifest);
    run.recipe.mutable_data()->clear_restart();
    run.optimizer = make_optimizer(*run.model, *run.mesh, run.recipe);
    const std::string damage = load_or_find_damage(communicator, point, run.state());
    if (!damage.empty()) {
        warn_of_damage(console)(point.checkpoint, damage);
        point.damaged.push_back(point.checkpoint);
        return std::nullopt;
    }
    run.model->repack();
    run.optimizer->set_updates(point.manifest.updates());
    run.step = point.manifest.step();
    run.next_sample = restarts ? 0 : point.manifest.next_sample();
    if (restarts) {
        const std::string changes = changed_order(run.data, recipe, point.manifest);
        console.line(concat("data     begins anew at sample 0, the run was at sample ",
                            point.manifest.next_sample(), changes.empty() ? "" : ": ", changes));
    }
    run.directory = std::move(point.directory);
    agree(communicator, [&] {
        if (communicator.rank() != 0) return;
        for (const fs::path& dir : point.damaged) {
            console.line(concat("WARNING: set aside as ", set_aside(dir).string()));
        }
        start_log(run, toml, console);
    });
    return run;
}

void check_resumable(const Manifest& manifest, const Recipe& recipe) {
    std::string changes;
    const auto compare = [&](const char* key, const std::string& then, const std::string& now) {
        if (then == now) return;
        changes += concat(changes.empty() ? "" : ", ", key, " was ", then, " and is now ", now);
    };
    const Recipe& old = manifest.recipe();
    const google::protobuf::Reflection* reflection = old.model().GetReflection();
    const google::protobuf::Descriptor* keys = old.model().GetDescriptor();
    for (int i = 0; i < keys->field_count(); ++i) {
        const auto text = [&](const ModelKeys& model) {
            const google::protobuf::FieldDescriptor* field = keys->field(i);
            if (!reflection->HasField(model, field)) return std::string("not set");
            std::string value;
            google::protobuf::TextFormat::PrintFieldValueToString(model, field, -1, &value);
            return value;
        };
        compare(("model." + keys->field(i)->name()).c_str(), text(old.model()),
                text(recipe.model()));
    }
    if (recipe.train().steps() < manifest.step())
        fail(ExitCode::usage, "train.steps = ", recipe.train().steps(), ", but the run is at step ",
             manifest.step(), " already; --set train.steps takes ", manifest.step(), " or more");
    compare("data.sequence_length", concat(old.data().sequence_length()),
            concat(recipe.data().sequence_length()));
    compare("train.moments", old.train().moments(), recipe.train().moments());
    compare("train.mtp_loss > 0", old.train().mtp_loss() > 0 ? "true" : "false",
            recipe.train().mtp_loss() > 0 ? "true" : "false");
    if (!changes.empty()) {
        fail(ExitCode::usage, "a run cannot go on as another model: ", changes);
    }
}

std::vector<std::string> parameter_table(Model& model) {
    std::map<std::string, std::pair<int64_t, int64_t>> parts;  // tensors and elements
    int64_t total = 0;
    for (const Parameter* parameter : model.all_parameters()) {
        const std::string& name = parameter->name;
        std::string part = "other";
        for (const char* word : {"norm", "experts", "shared", "router", "attention", "mlp"}) {
            if (name.find(word) == std::string::npos) continue;
            part = word;
            break;
        }
        if (name == "embedding" || name == "head") part = name;
        if (name.starts_with("mtp.")) part = "mtp";
        parts[part].first += 1;
        const int64_t size = whole_box(parameter->shape).size();
        parts[part].second += size;
        total += size;
    }
    std::vector<std::string> lines{fmt::format("parameters {:>17}", total)};
    for (const auto& [part, sizes] : parts) {
        lines.push_back(
            fmt::format("  {:<12} {:>13}  in {} tensors", part, sizes.second, sizes.first));
    }
    return lines;
}

}  // namespace fucina
