// A 32-bit RISC core of the RV32E base instruction set (sixteen registers), two stages deep:
// fetch, then decode, execute and write back. Loads take one more clock. No interrupts, no CSRs;
// ECALL and EBREAK halt the core.
module cpu (
    input  wire        clk,
    input  wire        rst,
    output wire [31:0] fetch_addr,
    input  wire [31:0] fetch_data,
    output wire [31:0] mem_addr,
    output wire        mem_read,
    input  wire [31:0] mem_read_data,
    output wire [3:0]  mem_write_mask,
    output wire [31:0] mem_write_data,
    output reg         halted
);
    localparam OP_LUI = 7'b0110111, OP_AUIPC = 7'b0010111, OP_JAL = 7'b1101111, OP_JALR = 7'b1100111,
               OP_BRANCH = 7'b1100011, OP_LOAD = 7'b0000011, OP_STORE = 7'b0100011,
               OP_IMM = 7'b0010011, OP_REG = 7'b0110011, OP_SYSTEM = 7'b1110011;

    reg [31:0] registers [0:15];
    reg [31:0] pc;          // of the instruction being fetched
    reg [31:0] exec_pc;     // of the instruction being executed
    reg [31:0] instr;
    reg        instr_valid;
    reg        load_wait;   // the data of a load arrives in this clock

    wire [6:0] opcode = instr[6:0];
    wire [3:0] rd = instr[10:7];
    wire [2:0] funct3 = instr[14:12];
    wire [3:0] rs1 = instr[18:15];
    wire [3:0] rs2 = instr[23:20];

    wire [31:0] imm_i = {{20{instr[31]}}, instr[31:20]};
    wire [31:0] imm_s = {{20{instr[31]}}, instr[31:25], instr[11:7]};
    wire [31:0] imm_b = {{20{instr[31]}}, instr[7], instr[30:25], instr[11:8], 1'b0};
    wire [31:0] imm_u = {instr[31:12], 12'b0};
    wire [31:0] imm_j = {{12{instr[31]}}, instr[19:12], instr[20], instr[30:21], 1'b0};

    wire [31:0] a = rs1 == 0 ? 32'b0 : registers[rs1];
    wire [31:0] b = rs2 == 0 ? 32'b0 : registers[rs2];

    // Arithmetic.
    wire        is_reg = opcode == OP_REG;
    wire [31:0] operand = is_reg ? b : imm_i;
    wire [4:0]  shamt = operand[4:0];
    wire        subtract = is_reg && instr[30];
    wire        arithmetic = instr[30];
    reg  [31:0] alu;

    always @* begin
        case (funct3)
            3'b000: alu = subtract ? a - operand : a + operand;
            3'b001: alu = a << shamt;
            3'b010: alu = {31'b0, $signed(a) < $signed(operand)};
            3'b011: alu = {31'b0, a < operand};
            3'b100: alu = a ^ operand;
            3'b101: alu = arithmetic ? $signed(a) >>> shamt : a >> shamt;
            3'b110: alu = a | operand;
            default: alu = a & operand;
        endcase
    end

    // Branches.
    reg taken;
    always @* begin
        case (funct3)
            3'b000: taken = a == b;
            3'b001: taken = a != b;
            3'b100: taken = $signed(a) < $signed(b);
            3'b101: taken = $signed(a) >= $signed(b);
            3'b110: taken = a < b;
            3'b111: taken = a >= b;
            default: taken = 1'b0;
        endcase
    end

    wire is_branch = opcode == OP_BRANCH;
    wire jump = instr_valid && (opcode == OP_JAL || opcode == OP_JALR || (is_branch && taken));
    wire [31:0] target = opcode == OP_JALR ? (a + imm_i) & ~32'b1
                       : exec_pc + (is_branch ? imm_b : imm_j);

    // Memory.
    wire is_load = instr_valid && opcode == OP_LOAD;
    wire is_store = instr_valid && opcode == OP_STORE;
    wire [3:0] width_mask = funct3[1] ? 4'b1111 : funct3[0] ? 4'b0011 : 4'b0001;
    assign mem_addr = a + (opcode == OP_STORE ? imm_s : imm_i);
    assign mem_read = is_load && !load_wait;
    assign mem_write_mask = is_store ? width_mask << mem_addr[1:0] : 4'b0;
    assign mem_write_data = b << {mem_addr[1:0], 3'b0};

    wire [31:0] loaded = mem_read_data >> {mem_addr[1:0], 3'b0};
    reg  [31:0] extended;
    always @* begin
        case (funct3)
            3'b000: extended = {{24{loaded[7]}}, loaded[7:0]};
            3'b001: extended = {{16{loaded[15]}}, loaded[15:0]};
            3'b100: extended = {24'b0, loaded[7:0]};
            3'b101: extended = {16'b0, loaded[15:0]};
            default: extended = loaded;
        endcase
    end

    // Write back.
    reg        write;
    reg [31:0] result;
    always @* begin
        write = instr_valid;
        case (opcode)
            OP_LUI: result = imm_u;
            OP_AUIPC: result = exec_pc + imm_u;
            OP_JAL, OP_JALR: result = exec_pc + 32'd4;
            OP_IMM, OP_REG: result = alu;
            OP_LOAD: begin
                result = extended;
                write = load_wait;
            end
            default: begin
                result = 32'b0;
                write = 1'b0;
            end
        endcase
    end

    wire stall = halted || (is_load && !load_wait);
    assign fetch_addr = pc;

    always @(posedge clk) begin
        if (rst) begin
            pc <= 32'b0;
            exec_pc <= 32'b0;
            instr <= 32'h00000013;
            instr_valid <= 1'b0;
            load_wait <= 1'b0;
            halted <= 1'b0;
        end else begin
            load_wait <= is_load && !load_wait;
            if (write && rd != 0) registers[rd] <= result;
            if (instr_valid && opcode == OP_SYSTEM) halted <= 1'b1;
            if (!stall) begin
                pc <= jump ? target : pc + 32'd4;
                exec_pc <= pc;
                instr <= fetch_data;
                instr_valid <= !jump;
            end
        end
    end
endmodule
