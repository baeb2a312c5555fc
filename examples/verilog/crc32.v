// CRC-32 (IEEE 802.3, reflected): one byte per clock.
module crc32 (
    input  wire        clk,
    input  wire        clear,
    input  wire        valid,
    input  wire [7:0]  data,
    output wire [31:0] crc
);
    localparam POLYNOMIAL = 32'hedb88320;

    reg [31:0] state;
    assign crc = ~state;

    function [31:0] step(input [31:0] current, input [7:0] octet);
        integer i;
        reg [31:0] value;
        begin
            value = current ^ {24'b0, octet};
            for (i = 0; i < 8; i = i + 1)
                value = value[0] ? (value >> 1) ^ POLYNOMIAL : value >> 1;
            step = value;
        end
    endfunction

    always @(posedge clk) begin
        if (clear) state <= 32'hffffffff;
        else if (valid) state <= step(state, data);
    end
endmodule
