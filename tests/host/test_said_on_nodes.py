"""What the user must know without an error stands on the node that runs."""

BANK = "said_on_nodes"


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def wired(base, **more):
    """mini-sd with an empty bank, and what follows."""
    (base / "models" / "concept_banks" / BANK).mkdir(parents=True, exist_ok=True)
    return {
        "load": node("CIDM_LoadMiniModel"),
        "bank": node("CIDM_LoadConceptBank", bank=BANK, new_name=""),
        "apply": node(
            "CIDM_ApplyConceptBank", model=["load", 0], clip=["load", 1], bank=["bank", 0]
        ),
        **more,
    }


def told(server, prompt):
    result = server.run(prompt)
    assert result.status == "success", result.error
    return b" ".join(result.previews)


def test_save_checkpoint_tells_that_the_bank_stays_behind(server, base):
    save = node("ModelSave", model=["apply", 0], filename_prefix="said")
    assert b"without the concepts of its bank" in told(server, wired(base, save=save))


def test_a_sampler_tells_of_a_negative_prompt_without_the_bank(server, base, stock_prompt):
    prompt = stock_prompt("a cat", px=32, steps=1)
    prompt["positive"]["inputs"]["clip"] = ["apply", 1]
    prompt["negative"]["inputs"] |= {"text": "a dog"}
    prompt["sample"]["inputs"]["model"] = ["apply", 0]
    prompt = prompt | wired(base)  # in place of the checkpoint
    assert b"did not encode the negative prompt" in told(server, prompt)


def test_mini_sd_refuses_a_large_picture_at_once(server, base, stock_prompt):
    result = server.run(stock_prompt("a cat", px=768) | wired(base))
    assert result.status == "error"
    assert "MINI draws pictures of 32 x 32 px; 768 x 768 were asked" in str(result.error)
